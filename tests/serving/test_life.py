"""Alive means alive: a server whose engine has died says so and ends; what cannot be started says why."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from served import Server, about, children, data_uri, serving
from tiny_models import make_panorama

from cora.cli.serve import main
from cora.config.serve import ServeConfig
from cora.errors import CheckpointError, ConfigError

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")


@pytest.mark.vllm
@needs_vllm
@pytest.mark.slow
@pytest.mark.abuse(28)
def test_a_dead_engine_is_told_within_ten_seconds_and_ends_the_server(server_checkpoint, tmp_path):
    with serving(server_checkpoint, tmp_path, "--accept-flat") as running:
        # In passing, as starting a server takes long.
        assert running.ask(about(data_uri(make_panorama(0).resize((64, 64))))).status_code == 200
        body = {"messages": [{"role": "user", "content": about(0)}], "stream": True, "max_tokens": 900}
        body["ignore_eos"] = True
        with running.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            assert is_healthy(running)
            os.kill(running.engine_pid(), signal.SIGKILL)
            killed = time.monotonic()
            # The stream ends with an error, or is cut off; it does not hang.
            with suppress(httpx.HTTPError):
                assert any("error" in line for line in lines)
        while is_healthy(running):
            assert time.monotonic() - killed < 10
            time.sleep(0.1)
        assert running.process.wait(20) == 1
        assert "the engine has died" in running.log.read_text()
        assert not Path(f"/proc/{running.process.pid}").exists() or children(running.process.pid) == []


def is_healthy(running: Server) -> bool:
    try:
        with running.client(key=None) as client:
            return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments), env={"CORA_API_KEY": None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint", "absent"), "checkpoint absent does not exist"),
        (("--checkpoint", ".", "--host", "0.0.0.0"), "0.0.0.0 is reached from other machines: set an API key"),
        (("--checkpoint", ".", "--api-key", " "), "the API key is empty"),
        (("--checkpoint", ".", "--set", "engine.api_key=x"), "engine.api_key is not available; use --api-key"),
        (("--checkpoint", ".", "--set", "limits.max_body=1"), "unknown key (did you mean"),
        (("--checkpoint", ".", "--set", "limits.max_concurrent=0"), "limits.max_concurrent: "),
        (("--checkpoint", ".", "--allow-media-domain", "https://x.org/"), "is not the name of a host"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1


def test_options_go_before_the_file_and_set(monkeypatch, tmp_path):
    seen = {}

    def fake(checkpoint, config, *, api_key, insecure):
        seen.update(config=config, api_key=api_key, insecure=insecure)
        return 7

    monkeypatch.setattr("cora.serving.server.serve", fake)
    file = tmp_path / "serve.yaml"
    file.write_text("host: 10.0.0.1\nport: 1\nengine: {max_num_seqs: 3}\nmedia: {domains: [a.org], max_bytes: 5}\n")
    done = run(
        *("--checkpoint", "x", "--config", str(file), "--set", "port=2", "--port", "3", "--accept-flat"),
        *("--allow-media-domain", "B.org", "--set", "engine.max_model_len=9", "--api-key", "k"),
    )
    assert done.exit_code == 7
    config: ServeConfig = seen["config"]
    assert (config.host, config.port, config.accept_flat) == ("10.0.0.1", 3, True)
    assert (config.media.domains, config.media.max_bytes) == (["b.org"], 5)
    assert config.engine == {"max_num_seqs": 3, "max_model_len": 9}
    assert seen["api_key"] == "k"


@pytest.mark.vllm
@needs_vllm
@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            {"max_num_sequences": 3},
            r"engine.max_num_sequences: vLLM has no such flag \(did you mean 'max_num_seqs'\?\)",
        ),
        ({"max_num_seqs": "many"}, "engine: argument --max-num-seqs: "),
    ],
)
def test_flags_that_vllm_does_not_take_are_named(server_checkpoint, engine, message):
    from cora.serving.engine import engine_arguments, inspect_checkpoint

    served = inspect_checkpoint(server_checkpoint, None)
    with pytest.raises(ConfigError, match=message):
        engine_arguments(served, ServeConfig(engine=engine))


@pytest.mark.vllm
@needs_vllm
def test_flags_reach_vllm_over_our_defaults(server_checkpoint):
    from cora.serving.engine import engine_arguments, inspect_checkpoint

    served = inspect_checkpoint(server_checkpoint, "name")
    engine = {"max-num-seqs": 5, "enable_prefix_caching": False, "limit_mm_per_prompt": {"image": 1, "video": 0}}
    arguments = engine_arguments(served, ServeConfig(engine=engine))
    assert (arguments.max_num_seqs, arguments.enable_prefix_caching) == (5, False)
    assert arguments.limit_mm_per_prompt == {"image": 1, "video": 0}
    assert arguments.served_model_name == ["name"]
    assert arguments.max_model_len == 1024


def test_a_checkpoint_of_another_kind_is_left_to_vllm(tmp_path):
    from cora.serving.engine import inspect_checkpoint

    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    served = inspect_checkpoint(tmp_path, "baseline")
    assert (served.name, served.is_export, served.context) == ("baseline", False, None)
    (tmp_path / "config.json").write_text("no json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        inspect_checkpoint(tmp_path, "baseline")
