"""A small transformer encoder for texts, of the kind that large ones are distilled into.

Two layers of BERT's form (Devlin et al. 2019): learned positions, GELU, attention of several heads. As in MiniLM (Wang
et al. 2020) the student keeps the form and has fewer, narrower layers; as in MobileBERT (Sun et al. 2020) it is made
for a device. Norms come before each part and not after it, so that training needs no warm-up (Xiong et al. 2020).
Attention is written with nn.Linear: what rounds, prunes, factorizes and exports dense layers does so here.

Token 0 is padding: nobody attends to it, and it counts for nothing in the mean at the end.
"""

from torch import Tensor, nn

from fedlite.errors import SettingsError
from fedlite.models.text_rnn import mean_of_tokens

_NEVER = -1e9  # a score whose softmax is 0; finite, so that a text of padding alone gives no NaN


class _Attention(nn.Module):
    """Softmax(Q Kᵀ / √d) V of several heads, and a dense layer over them. (Vaswani et al. 2017, equation 1)"""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x is (batch, time, width); hidden (batch, 1, 1, time) is _NEVER where there is padding, else 0."""
        count, time, width = x.shape
        shape = (count, time, self.heads, width // self.heads)
        query, key, value = (
            layer(x).reshape(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * shape[-1] ** -0.5 + hidden
        mixed: Tensor = self.output((scores.softmax(-1) @ value).transpose(1, 2).reshape(count, time, width))
        return mixed


class _Layer(nn.Module):
    """Attention, then two dense layers for each token, both added to what came in."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.dense_norm = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), hidden)
        y: Tensor = x + self.dense(self.dense_norm(x))
        return y


class TextTransformer(nn.Module):
    """367,618 parameters by default, of which the 4,096 tokens are 262,144.

    `length` is the longest text in tokens. Raises SettingsError unless heads divide the width.
    """

    def __init__(
        self,
        num_classes: int = 2,
        vocabulary: int = 4096,
        length: int = 80,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
    ) -> None:
        super().__init__()
        if width % heads:
            raise SettingsError(f"a width of {width} does not divide into {heads} heads")
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Layer(width, heads, 4 * width) for _ in range(layers))
        self.last_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, time), each in [0, vocabulary), time ≤ length → logits (batch, num_classes)."""
        hidden = (x == 0).to(self.norm.weight.dtype)[:, None, None, :] * _NEVER
        states = self.norm(self.embedding(x.long()) + self.positions.weight[: x.shape[1]])
        for layer in self.layers:
            states = layer(states, hidden)
        logits: Tensor = self.output(mean_of_tokens(self.last_norm(states), x))
        return logits
