"""The client app: an offer in, a report out. The same on a board, in the simulator and on Flower's runtime."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedlite.apps.device import Device, Drawn, Held, Limits, Pending, Teacher
from fedlite.apps.offer import (
    Manifest,
    Offer,
    read_offer,
    write_holds,
    write_report,
)
from fedlite.apps.origin import make_origin
from fedlite.budget import longest, told
from fedlite.compress.codec import encode_with_feedback, memory_of
from fedlite.compress.presets import codec_by_name
from fedlite.compress.rate import check_adjustable, fit
from fedlite.downlink import NOTHING_HELD, WHOLE_WANTED, Version, receive
from fedlite.errors import CodecError, DataError, OriginError, ReplayError, SettingsError
from fedlite.flower import ClientApp, Context, Message, RecordDict
from fedlite.modules import module_of, shapes_of
from fedlite.seeds import derive, generator
from fedlite.tensors import add, check_finite, subtract, zeros_like
from fedlite.types import Update, is_statistic
from fedlite.uplink import FRESH_ROUNDS, Report, pack

if TYPE_CHECKING:
    from fedlite.train import TrainResult

_log = logging.getLogger("fedlite.client")

DeviceOf = Callable[[Context], Device]


def client_app(device_of: DeviceOf) -> ClientApp:
    """A Flower ClientApp that trains on the device the context stands for."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(answer(device_of(context), read_offer(message.content)), reply_to=message)

    return app


@dataclass(frozen=True, eq=False)
class Owed:
    """What a device sends on top of a round's update, and the part of it that its codec lost in `losses_round`."""

    all: Update | None = None
    losses: Update | None = None
    losses_round: int = 0


@dataclass(frozen=True, eq=False)
class Task:
    """One device's training in one round, ready to run: `run_task` alone, or many at once in a simulator."""

    device: Device
    manifest: Manifest
    held: Held
    version: Version
    drawn: Drawn
    owed: Owed

    @property
    def seed(self) -> int:
        """Of this client's chance in this round."""
        return derive(self.manifest.seed, "client", self.manifest.round_num, self.device.client_id)


def answer(device: Device, offer: Offer) -> RecordDict:
    """The answer to an offer. What it sends is saved before it is sent, so a repeated offer gets the same bytes.

    Raises SealError if the server did not sign the offer, ReplayError if it is of a round already left behind,
    DataError if there is nothing to train on.
    """
    task = prepare(device, offer)
    return finish(task, run_task(task)) if isinstance(task, Task) else task


def prepare(device: Device, offer: Offer) -> Task | RecordDict:
    """The training an offer asks for, or the answer where there is none to do; raises as `answer`."""
    manifest = offer.manifest
    device.verify(manifest.text, offer.signature)
    held = device.memory.load()
    if held.run != manifest.run:
        held = Held(run=manifest.run)
    if manifest.round_num < held.round_num:
        raise ReplayError(f"offer is of round {manifest.round_num}, this device has seen {held.round_num}")
    if held.pending is not None and held.pending.spec_hash == manifest.context.spec_hash:
        return write_report(held.pending.envelope)
    _check_bearable(manifest, device.limits)
    _check_teacher(manifest, device.teacher)
    if device.uplink_budget or manifest.uplink_budget:
        check_adjustable(codec_by_name(manifest.uplink_codec))
    try:
        version = _receive(device, offer, held.version)
    except OriginError as error:
        _log.info("asking for the whole model: %s", error)
        return write_holds(WHOLE_WANTED)
    except CodecError:
        return write_holds(held.version.number if held.version else NOTHING_HELD)
    if version is None:
        return write_holds(WHOLE_WANTED)
    drawn = device.source.draw(partial(_predict, device, manifest, version))
    if len(drawn.y) == 0:
        raise DataError("this device has no samples yet", remedy="it takes part as soon as some arrive")
    return Task(device, manifest, held, version, drawn, _owed(held, manifest.round_num, offer.counted))


def run_task(task: Task) -> "TrainResult":
    """Local training, alone."""
    from fedlite.local import train

    settings, version, drawn = task.manifest.settings, task.version, task.drawn
    teacher = task.device.teacher if task.manifest.teacher else None
    return train(
        module_of(task.manifest.model, settings.bits),
        version.params,
        drawn.x,
        drawn.y,
        settings,
        seed=task.seed,
        masks=version.masks,
        teacher=teacher.logits(drawn.x) if teacher is not None else None,
        device=task.device.compute,
        folder=task.device.folder,
    )


def finish(task: Task, result: "TrainResult") -> RecordDict:
    """The report of a task that was run, saved and ready to send. UpdateError when training diverged."""
    manifest, version, held = task.manifest, task.version, task.held
    update = subtract(result.params, version.params)
    check_finite(update)
    seq = max(held.seq + 1, manifest.round_num << 16)  # rises even if this device's memory was lost
    send = partial(task.device.sender.send, context=manifest.context, seq=seq)
    report, rest = _report(task, result, update, lambda report: len(send(pack(report))))
    envelope = send(pack(report))
    _log_round(manifest.round_num, report, len(envelope))
    before = task.owed.losses if task.owed.losses is not None else zeros_like(update)
    lost = {**_without_statistics(add(update, before)), **memory_of(before)}
    pending = Pending(
        manifest.context.spec_hash, manifest.round_num, envelope, before, rest, lost, task.owed.losses_round
    )
    task.device.memory.save(
        replace(held, round_num=manifest.round_num, seq=seq, version=version, pending=pending)
    )
    return write_report(envelope)


def _report(
    task: Task, result: "TrainResult", update: Update, size: Callable[[Report], int]
) -> tuple[Report, Update]:
    """(the report, what is owed after it), as fine as the budget allows; `size` is of what leaves the device."""
    codec, chance = codec_by_name(task.manifest.uplink_codec), generator(task.seed, "codec")
    metrics = {"loss": result.loss, "accuracy": result.accuracy, **task.drawn.metrics}
    count, owed, masks = result.num_examples, task.owed.all, task.version.masks
    own = task.device.uplink_budget
    budget = own or task.manifest.uplink_budget
    if not budget:
        payload, rest = encode_with_feedback(codec, update, owed, masks=masks, generator=chance)
        return Report(count, metrics, payload), rest
    empty = size(Report(count, {**metrics, **longest(own)}, b""))
    payload, rest, deviations = fit(
        codec, update, owed, budget, overhead=empty, masks=masks, generator=chance
    )
    return Report(count, {**metrics, **told(deviations, own)}, payload), rest


def _check_teacher(manifest: Manifest, teacher: Teacher | None) -> None:
    """SettingsError unless this device has the teacher the round is taught by."""
    if manifest.teacher and (teacher is None or teacher.name != manifest.teacher):
        here = f"this device has {teacher.name[:16]}…" if teacher is not None else "this device has none"
        raise SettingsError(
            f"the round is taught by the teacher {manifest.teacher[:16]}…; {here}",
            remedy="give the client the server's own --student or --teacher file",
        )


def _receive(device: Device, offer: Offer, held: Version | None) -> Version | None:
    """The version the manifest names; None if the payload leads to another, CodecError if it leads nowhere."""
    manifest = offer.manifest
    name = f"{manifest.version} {manifest.model_hash}"
    if (known := device.versions.get(name)) is not None:
        return known
    like = held.params if held else shapes_of(manifest.model, manifest.settings.bits)
    codec = codec_by_name(manifest.downlink_codec)
    most = device.limits.max_parameters
    begin = partial(make_origin, manifest.origin, manifest.seed, most) if manifest.origin else None
    version = receive(offer.model, held, like, codec, begin)
    if (version.number, version.hash.hex()) != (manifest.version, manifest.model_hash):
        return None
    device.versions[name] = version
    return version


def _predict(
    device: Device, manifest: Manifest, version: Version, x: NDArray[np.generic]
) -> NDArray[np.int64]:
    from fedlite.train import predict

    bits = manifest.settings.bits
    return predict(module_of(manifest.model, bits), version.params, x, bits=bits, device=device.compute)


def _check_bearable(manifest: Manifest, limits: Limits) -> None:
    """SettingsError for work that is beyond this device, however well it is signed."""
    if manifest.settings.epochs > limits.max_epochs:
        raise SettingsError(
            f"the server asks for {manifest.settings.epochs} epochs, this device does {limits.max_epochs} at most",
            remedy="lower --epochs on the server, or raise --max-epochs on the device",
        )
    shapes = shapes_of(manifest.model, manifest.settings.bits)
    if (count := sum(value.size for value in shapes.values())) > limits.max_parameters:
        raise SettingsError(
            f"the server's model has {count} parameters, this device takes {limits.max_parameters} at most",
            remedy="use a smaller model, or raise --max-parameters on the device",
        )


def _owed(held: Held, round_num: int, counted: int) -> Owed:
    """What to send on top of this round's update.

    A round that is run again with other settings replaces its first report, which was not counted. What was made
    more than FRESH_ROUNDS ago is forgotten: the model it was to improve is gone.
    """
    pending, since = held.pending, round_num - FRESH_ROUNDS
    if pending is None or counted > pending.round_num:  # the latter: memory restored from a backup
        return Owed()
    if pending.round_num < since:
        return Owed()
    if counted == pending.round_num:
        return Owed(pending.if_counted, pending.if_counted, pending.round_num)
    before = pending.before if pending.before_round >= since else None
    again = round_num == pending.round_num
    return Owed(before if again else pending.if_lost, before, pending.before_round)


def _without_statistics(update: Update) -> Update:
    """Statistics are measured anew in every round: those of a lost update are not owed."""
    return {name: np.zeros_like(value) if is_statistic(name) else value for name, value in update.items()}


def _log_round(round_num: int, report: Report, size: int) -> None:
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in report.metrics.items())
    _log.info("round %d: %d samples, %s; report of %d bytes", round_num, report.num_examples, metrics, size)
