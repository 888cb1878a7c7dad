"""What attention costs, layer by layer, counted from shapes alone: parameters, MACs per token, cache, memory.

A MAC is one multiplication with its addition. Only matrix products count: gates, softmax and rotations are left out.
Axes: D model width, M heads (attention matrices), K head width, E experts per head, k of them chosen, T tokens of
context. A dense layer is E = k = 1 without routers.

Csordás et al. 2024 (SwitchHead, arXiv 2312.07987) count the same, as do the scripts of their tables
(github.com/RobertCsordas/moe_attention, paper/common.py), with three differences: they add the gates' 2 M k K
multiplications, count one router where there is one per head, and in most tables what Transformer-XL's relative
positions and second block of context cost. Our layers have neither.
"""

from dataclasses import astuple, dataclass

from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.switchhead import SwitchHead

FLOAT32 = 4  # bytes
Attention = CausalSelfAttention | SwitchHead


@dataclass(frozen=True)
class AttentionCosts:
    """Of one layer, or of all layers of a model together; MACs are per token, mean over the tokens of a context of T.

    `useful`: MACs of projections and routers, of the experts only what is chosen. `executed`: the same as they are
    computed, which may be all experts. `full` and `causal`: MACs of scores and weighted values besides; `full` is what
    a kernel computes that masks afterwards, `causal` what is needed, and what a kernel computes that skips masked
    blocks. `cache_bytes`: keys and values in float32, per token. `memory_floats`: numbers, not bytes, that attention
    over one text of T tokens holds if no kernel fuses it.
    """

    parameters: int
    useful: int
    executed: int
    full: int
    causal: int
    cache_bytes: int
    memory_floats: int


@dataclass(frozen=True)
class AttentionShape:
    """The dimensions of one layer; `computed` is how many experts per head are computed, from k to E."""

    n_embd: int
    n_head: int
    head_width: int
    n_expert: int = 1
    top_k: int = 1
    computed: int = 1
    routers: int = 0  # per head
    n_kv_head: int | None = None  # of keys and values, where several heads of queries share one

    @property
    def width(self) -> int:
        """M K: of all heads' queries together, and of keys and of values where they are not shared."""
        return self.n_head * self.head_width

    @property
    def cache_width(self) -> int:
        """Of all heads' keys, or values, together."""
        return (self.n_kv_head or self.n_head) * self.head_width

    def projections(self, experts: int) -> int:
        """D M K for queries and for keys, D M K per expert for values and for outputs, and the routers' D M E each; for
        keys and values less where they are shared."""
        of_routers = self.routers * self.n_embd * self.n_head * self.n_expert
        return self.n_embd * (self.width + self.cache_width) * (1 + experts) + of_routers

    def causal(self, context: int) -> int:
        """A token at position t scores t tokens and sums their values, M K each: 2 M K (T + 1) / 2 on average."""
        return self.width * (context + 1)

    def memory_floats(self, context: int) -> int:
        """M (2 T^2 + 4 T K) + R T M E for R routers: scores before and after softmax; queries, keys, values and what
        is attended; the routers' scores. k does not matter, for a kernel need not keep each expert's share."""
        per_head = 2 * context**2 + 4 * context * self.head_width
        return self.n_head * (per_head + self.routers * context * self.n_expert)


def attention_costs(model: GPT, context: int) -> AttentionCosts:
    """Of all layers together. The model may be without weights."""
    per_layer = [astuple(layer_costs(layer, context)) for layer in model.modules() if isinstance(layer, Attention)]
    return AttentionCosts(*map(sum, zip(*per_layer, strict=True)))


def layer_costs(layer: Attention, context: int) -> AttentionCosts:
    """Of one layer of attention over `context` tokens."""
    shape = attention_shape(layer)
    return AttentionCosts(
        parameters=sum(parameter.numel() for parameter in layer.parameters()),
        useful=shape.projections(shape.top_k),
        executed=shape.projections(shape.computed),
        full=2 * shape.width * context,
        causal=shape.causal(context),
        cache_bytes=2 * shape.cache_width * FLOAT32,
        memory_floats=shape.memory_floats(context),
    )


def attention_shape(layer: Attention) -> AttentionShape:
    """The dimensions that the formulas take. `compute: auto` counts as all experts, the most that it may compute."""
    D = layer.config.n_embd
    if isinstance(layer, CausalSelfAttention):
        config = layer.config
        return AttentionShape(D, config.n_head, config.attention_width // config.n_head, n_kv_head=config.n_kv_head)
    experts = layer.experts
    E, k = experts.n_expert, experts.top_k
    computed = k if experts.compute in ("loop", "grouped") else E
    return AttentionShape(D, experts.n_head, experts.head_width, E, k, computed, routers=2)
