"""Operations of models, written in Tessera itself: each is plain tensor code that compiles to one kernel."""

from tessera.ops.attention import flash_attention

__all__ = ["flash_attention"]
