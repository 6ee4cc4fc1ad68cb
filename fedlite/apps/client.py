"""The client app: an offer in, a report out. The same on a board, in the simulator and on Flower's runtime."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlite.apps.device import Device, Held, Pending
from fedlite.apps.model import module_of, shapes_of
from fedlite.apps.offer import (
    NOTHING_HELD,
    Manifest,
    Offer,
    read_offer,
    write_holds,
    write_report,
)
from fedlite.compress.codec import codec_by_name, encode_with_feedback
from fedlite.downlink import Version, receive
from fedlite.errors import CodecError, DataError, ReplayError
from fedlite.flower import ClientApp, Context, Message, RecordDict
from fedlite.seeds import derive, generator
from fedlite.tensors import add, check_finite, subtract
from fedlite.types import Update
from fedlite.uplink import Report, pack

_log = logging.getLogger("fedlite.client")

DeviceOf = Callable[[Context], Device]


def client_app(device_of: DeviceOf) -> ClientApp:
    """A Flower ClientApp that trains on the device the context stands for."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(answer(device_of(context), read_offer(message.content)), reply_to=message)

    return app


def answer(device: Device, offer: Offer) -> RecordDict:
    """The answer to an offer. What it sends is saved before it is sent, so a repeated offer gets the same bytes.

    Raises SealError if the server did not sign the offer, ReplayError if it is of a round already left behind,
    DataError if there is nothing to train on.
    """
    manifest = offer.manifest
    device.verify(manifest.text, offer.signature)
    held = device.memory.load()
    if held.run != manifest.run:
        held = Held(run=manifest.run)
    if manifest.round_num < held.round_num:
        raise ReplayError(f"offer is of round {manifest.round_num}, this device has seen {held.round_num}")
    context = manifest.context
    if held.pending is not None and held.pending.spec_hash == context.spec_hash:
        return write_report(held.pending.envelope)
    version = _receive(offer, held.version)
    if version is None:
        return write_holds(held.version.number if held.version else NOTHING_HELD)
    report, counted, lost = _train(device, manifest, version, _residual(held, offer.counted))
    seq = max(held.seq + 1, manifest.round_num << 16)  # rises even if this device's memory was lost
    envelope = device.sender.send(pack(report), context, seq)
    pending = Pending(context.spec_hash, manifest.round_num, envelope, counted, lost)
    _log.info(
        "round %d: %d samples, %s; report of %d bytes",
        manifest.round_num,
        report.num_examples,
        ", ".join(f"{name} {value:.4g}" for name, value in report.metrics.items()),
        len(envelope),
    )
    device.memory.save(replace(held, round_num=manifest.round_num, seq=seq, version=version, pending=pending))
    return write_report(envelope)


def _residual(held: Held, counted: int) -> Update | None:
    """What is still owed to the server from before: the codec's loss, or a whole update that was not counted."""
    if held.pending is None or counted > held.pending.round_num:  # the latter: memory restored from a backup
        return None
    return held.pending.if_counted if held.pending.round_num == counted else held.pending.if_lost


def _receive(offer: Offer, held: Version | None) -> Version | None:
    """The version the manifest names, or None if this payload does not lead there from what is held."""
    manifest = offer.manifest
    like = held.params if held else shapes_of(manifest.model, int(manifest.train.get("bits", 32)))
    try:
        version = receive(offer.model, held, like, codec_by_name(manifest.downlink_codec))
    except CodecError:
        return None
    return version if version.hash.hex() == manifest.model_hash else None


def _train(
    device: Device, manifest: Manifest, version: Version, residual: Update | None
) -> tuple[Report, Update, Update]:
    """(report, residual if it is counted, residual if it is lost)."""
    from fedlite.train import TrainSettings, local_train, predict

    settings = TrainSettings(**manifest.train)
    model = module_of(manifest.model, settings.bits)

    def labels(x: NDArray[np.generic]) -> NDArray[np.int64]:
        return predict(model, version.params, x, bits=settings.bits, device=device.compute)

    drawn = device.source.draw(labels)
    if len(drawn.y) == 0:
        raise DataError("this device has no samples yet", remedy="it takes part as soon as some arrive")
    seed = derive(manifest.seed, "client", manifest.round_num, device.client_id)
    result = local_train(
        model,
        version.params,
        drawn.x,
        drawn.y,
        settings,
        seed=seed,
        masks=version.masks,
        device=device.compute,
    )
    update = subtract(result.params, version.params)
    check_finite(update)
    payload, rest = encode_with_feedback(
        codec_by_name(manifest.uplink_codec),
        update,
        residual,
        masks=version.masks,
        generator=generator(seed, "codec"),
    )
    owed = update if residual is None else add(update, residual)
    metrics = {"loss": result.loss, "accuracy": result.accuracy, **drawn.metrics}
    return Report(result.num_examples, metrics, payload), rest, owed
