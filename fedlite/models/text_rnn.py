"""Recurrent text classifiers: tokens, one GRU or LSTM layer, the mean of its states. (Cho et al. 2014; Hochreiter 1997)

Token 0 is padding, at the end: it counts for nothing, so that a text may be padded to any length. PyTorch's layers
have two bias vectors where the papers have one.
"""

from torch import Tensor, nn


class TextGru(nn.Module):
    """Embedding, GRU, mean over the tokens that are there."""

    def __init__(
        self, num_classes: int = 2, vocabulary: int = 4096, embedding: int = 32, hidden: int = 64
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.recurrent = nn.GRU(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, time), each in [0, vocabulary) → logits (batch, num_classes)."""
        states, _ = self.recurrent(self.embedding(x.long()))
        logits: Tensor = self.output(mean_of_tokens(states, x))
        return logits


class TextLstm(nn.Module):
    """Embedding, LSTM, mean over the tokens that are there."""

    def __init__(
        self, num_classes: int = 2, vocabulary: int = 4096, embedding: int = 32, hidden: int = 64
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.recurrent = nn.LSTM(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, time), each in [0, vocabulary) → logits (batch, num_classes)."""
        states, _ = self.recurrent(self.embedding(x.long()))
        logits: Tensor = self.output(mean_of_tokens(states, x))
        return logits


def mean_of_tokens(states: Tensor, x: Tensor) -> Tensor:
    """The mean state (batch, channels) of the tokens that are not padding; 0 for a text of padding alone."""
    there = (x != 0).to(states.dtype).unsqueeze(-1)
    return (states * there).sum(1) / there.sum(1).clamp(min=1)
