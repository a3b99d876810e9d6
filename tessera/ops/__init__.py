"""Operations of models, written in Tessera itself: each is plain tensor code that compiles to one kernel."""

from tessera.ops.attention import flash_attention
from tessera.ops.recurrent import delta_rule, gated_linear_attention, linear_attention

__all__ = ["delta_rule", "flash_attention", "gated_linear_attention", "linear_attention"]
