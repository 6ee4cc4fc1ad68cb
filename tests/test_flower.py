import logging
import os
import subprocess
import sys

from fedlite import flower
from fedlite.flower import ArrayRecord, Message, RecordDict

LIGHT = """
import sys
import fedlite.link.client
heavy = {"torch", "torchvision", "ray", "pandas", "sklearn", "fastapi", "sqlalchemy"} & set(sys.modules)
assert not heavy, heavy
[line] = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
print(line.split()[1])
"""


def test_nothing_is_sent_home() -> None:
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_importing_the_client_is_light() -> None:
    """Under 90 MB (10^6 bytes) resident, and without torch: what a small device can spare."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 90e6


def test_messages_can_be_made_outside_flowers_runtime() -> None:
    flower.as_task(2**64 - 1, 2**63)
    message = Message(RecordDict(), dst_node_id=7, message_type="train")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (2**64 - 1, 2**63)


def test_readdressing_shares_the_content() -> None:
    flower.as_task(1)
    message = Message(RecordDict({"a": ArrayRecord()}), dst_node_id=7, message_type="train", group_id="3")
    sent = flower.readdress(message, run_id=9, message_id="ab", src_node_id=4)
    assert sent.content is message.content
    assert (sent.metadata.run_id, sent.metadata.message_id, sent.metadata.src_node_id) == (9, "ab", 4)
    assert (sent.metadata.dst_node_id, sent.metadata.group_id) == (7, "3")
    assert message.metadata.message_id == ""


def test_error_reply_goes_back_to_the_sender() -> None:
    flower.as_task(1)
    request = flower.readdress(
        Message(RecordDict(), dst_node_id=7, message_type="train"), run_id=9, message_id="ab", src_node_id=4
    )
    reply = flower.error_reply(request.metadata, 2, "why")
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (7, 4)
    assert reply.metadata.reply_to_message_id == "ab"
    assert (reply.error.code, reply.error.reason) == (2, "why")


def test_quiet_sets_flowers_level_only() -> None:
    logger, root = logging.getLogger("flwr"), logging.getLogger().level
    before = logger.level
    try:
        flower.quiet(logging.ERROR)
        assert not logger.isEnabledFor(logging.WARNING)
        assert logging.getLogger().level == root
    finally:
        logger.setLevel(before)


def test_stock_strategies_by_name() -> None:
    assert {"FedAvg", "FedAdam", "FedMedian", "Krum"} <= set(flower.stock_strategies())
