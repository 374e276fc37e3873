"""Triton kernels of CORA, imported as ``cora.triton_kernels``.

vLLM imports any top-level package called ``triton_kernels`` as OpenAI's package of that name. In a checkout this
folder is such a package whenever the checkout is on ``sys.path``, so under its bare name it refuses to be imported, and
vLLM goes on as if it were absent. The build maps the folder to ``cora.triton_kernels``.
"""

from __future__ import annotations

if __name__ == "triton_kernels":
    raise ImportError("this folder is cora.triton_kernels, not the package triton_kernels that vLLM looks for")
