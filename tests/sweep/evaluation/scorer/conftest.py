"""The models of the streamed weights: what they compute is compared with the same models held whole."""

from __future__ import annotations

from tests.sweep.weights.conftest import llama, save, tokens

__all__ = ["llama", "save", "tokens"]  # fixtures
