"""A server of panoramas on a network: vLLM's own application behind a gate that lets in what is meant to come in."""
