"""A character model of two LSTM layers. (McMahan et al. 2017, §3; LEAF, Caldas et al. 2018)"""

from torch import Tensor, nn


class CharLstm(nn.Module):
    """Embedding of 8, two LSTM layers of 256, and the character after the last: LEAF's task.

    PyTorch's LSTM has two bias vectors per gate where the papers' have one: 2,048 more parameters, the same
    function.
    """

    def __init__(self, num_classes: int = 65, embedding: int = 8, hidden: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, batch_first=True)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Symbols (batch, time), each in [0, num_classes) → logits of the next one (batch, num_classes)."""
        states, _ = self.lstm(self.embedding(x.long()))
        logits: Tensor = self.output(states[:, -1])
        return logits
