from __future__ import annotations

from marketd.ingest.sequence import Sequencer


def test_numbers_start_at_one_and_have_no_holes() -> None:
    sequencer = Sequencer("e")
    assert (sequencer.epoch, sequencer.seq) == ("e", 0)
    assert [sequencer.take(n) for n in (1, 3, 2)] == [1, 2, 5]
    assert sequencer.seq == 6


def test_each_run_is_an_epoch_of_its_own() -> None:
    epochs = {Sequencer().epoch for _ in range(100)}
    assert len(epochs) == 100
    assert all(len(epoch) == 16 and set(epoch) <= set("0123456789abcdef") for epoch in epochs)
