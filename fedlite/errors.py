"""Every error fedlite raises, as a tree whose branches are what a caller can do about it.

FedliteError
├── SettingsError        fix the settings, the command line or the files given, then start again
│   ├── DataError        … the data: folder missing, empty partition, label out of range
│   └── StateError       … the state directory: of another run, of a newer format, damaged
├── RetryError           nothing is wrong with the request; try again later
│   ├── LinkError        … the connection failed or the server is not there yet
│   ├── QuorumError      … too few clients answered before the deadline
│   └── StorageError     … the disk is full or failing; nothing committed was lost
├── PeerError            drop this peer's message and go on; the message says which peer and why
│   ├── FrameError       … the bytes on the link are not a frame: truncated, oversize, of another version
│   ├── CodecError       … the payload is not what the codec writes for this model
│   ├── UpdateError      … decoded, but not acceptable: shape, name, dtype, NaN, example count
│   ├── SealError        … not authentic: every cryptographic failure reads the same from outside
│   └── ReplayError      … authentic, but of another run or round, or sent before
└── AccessError          stop: this device is not (or no longer) allowed; ask the operator for a new join code
"""


class FedliteError(Exception):
    """Root of the tree; never raised itself. `remedy` says what to do, in one sentence."""

    remedy = "see the message"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.remedy})"


class SettingsError(FedliteError):
    """The settings cannot work as given."""

    remedy = "correct the setting and start again; --help lists them all"


class DataError(SettingsError):
    """The data are missing, empty, or not of the form their kind has."""

    remedy = "check what --data or --dataset names, and --data-dir"


class StateError(SettingsError):
    """The state directory does not fit this program, version or run."""

    remedy = "restore it from a backup, or use another --state-dir or --run-dir to begin anew"


class RetryError(FedliteError):
    """The same request may succeed later."""

    remedy = "try again later"


class LinkError(RetryError):
    """The peer cannot be reached, or the connection broke."""

    remedy = "check the address and that the server runs; the client retries by itself"


class QuorumError(RetryError):
    """Too few results for a round."""

    remedy = "wait for more clients, lower --quorum, or raise --deadline-seconds"


class StorageError(RetryError):
    """The disk refused a write; what was committed before is intact."""

    remedy = "free some space and start again with the same --state-dir"


class PeerError(FedliteError):
    """A peer sent what it should not; drop the message, keep running."""

    remedy = "the message was dropped; check that client's version and data"


class FrameError(PeerError):
    """Bytes on the link that are not a frame of this protocol version."""


class CodecError(PeerError):
    """A payload that no encoder writes for this model."""


class OriginError(CodecError):
    """A downlink that leads on from an initial model which this device cannot make."""


class UpdateError(PeerError):
    """A decoded update that cannot be aggregated."""


class SealError(PeerError):
    """An envelope that is not authentic. Says nothing more, on purpose."""


class ReplayError(PeerError):
    """An authentic envelope that belongs to another run or round, or came before."""


class AccessError(FedliteError):
    """The peer is not allowed: unknown, revoked, or with a join code that is wrong, used or expired."""

    remedy = "ask the operator for a new join code: python -m server invite NAME"
