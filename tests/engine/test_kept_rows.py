"""Rows on disk: found by their documents, whole or not there, and never more than may be used."""

import shutil

import pytest
import torch

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.kept_rows import (
    Kept,
    bytes_at,
    digests,
    open_rows,
    write_rows,
)

TEXTS = [(5, 6, 7), (8, 9), (5, 6), (7,)]


def stream(*texts):
    return collate([Encoded({"text": EncodedStream(ids)}) for ids in texts]).text


def block(dtype, *texts):
    """Rows that say which token they stand for."""
    found = stream(*texts)
    rows = found.ids_T[:, None].repeat(1, 4).to(dtype) / 3
    return digests(found), found.lengths, rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_back_bit_for_bit_in_the_order_of_a_batch(dtype, tmp_path):
    write_rows(tmp_path / "rows", {}, [block(dtype, *TEXTS[:3]), block(dtype, TEXTS[3])])
    kept = Kept("token", [open_rows(tmp_path / "rows")])
    wanted = (TEXTS[3], TEXTS[0], TEXTS[2])
    found = kept.find(stream(*wanted))
    assert found.dtype == dtype
    assert torch.equal(found, block(dtype, *wanted)[2])


def test_nothing_is_found_where_one_document_lacks(tmp_path):
    write_rows(tmp_path / "rows", {}, [block(torch.float32, *TEXTS)])
    kept = Kept("token", [open_rows(tmp_path / "rows")])
    assert kept.find(stream(TEXTS[0], (6, 5))) is None
    assert kept.find(stream((5, 6, 7, 8))) is None


def test_parts_are_looked_through_in_turn(tmp_path):
    for name, text in (("a", TEXTS[0]), ("b", TEXTS[1])):
        write_rows(tmp_path / name, {}, [block(torch.float32, text)])
    kept = Kept("token", [open_rows(tmp_path / "a"), open_rows(tmp_path / "b")])
    expected = block(torch.float32, TEXTS[1], TEXTS[0])[2]
    assert torch.equal(kept.find(stream(TEXTS[1], TEXTS[0])), expected)


@pytest.mark.parametrize("file", ["rows.bin", "index.safetensors", "about.json"])
def test_what_is_not_what_was_written_counts_as_not_there(file, tmp_path):
    place = tmp_path / "rows"
    assert open_rows(place) is None
    write_rows(place, {}, [block(torch.float32, *TEXTS)])
    content = bytearray((place / file).read_bytes())
    content[-1] ^= 1
    (place / file).write_bytes(content)
    assert open_rows(place) is None


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def blocks():
        yield block(torch.float32, *TEXTS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "rows", {}, blocks())
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_mapped_outlive_their_files(tmp_path):
    write_rows(tmp_path / "rows", {}, [block(torch.float32, *TEXTS)])
    kept = Kept("token", [open_rows(tmp_path / "rows")])
    shutil.rmtree(tmp_path / "rows")
    assert bytes_at(tmp_path / "rows") == 0
    assert torch.equal(kept.find(stream(TEXTS[1])), block(torch.float32, TEXTS[1])[2])
