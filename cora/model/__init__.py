"""PanoramaVLM and its parts: vision backbone, resamplers, projector, language model."""
