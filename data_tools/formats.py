"""The formats that `data import` reads (FORMATS). The importer of a format is a function of (source, out, options by keyword)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2raap.core.corpus import Corpus

TRAINING_OPTIONS = ("video_dir", "num_holdout", "seed")
PROTOCOL_OPTIONS = ("video_dir", "protocol")


@dataclass(frozen=True)
class Format:
    """`importer`: module:function, imported when it is used. `protocols`: the first is the default, unless the user has to
    name one (`needs_protocol`)."""

    importer: str
    source: str | None  # the file or folder that the user gives, in words; None: the format reads none
    options: tuple[str, ...] = TRAINING_OPTIONS
    protocols: tuple[str, ...] = ()
    needs_protocol: bool = False

    def load(self) -> Callable[..., list[Corpus]]:
        """The importer."""
        module, _, function = self.importer.partition(":")
        return getattr(import_module(module), function)


FORMATS: dict[str, Format] = {
    "table": Format("data_tools.table:import_table", "csv, tsv, jsonl, json or parquet with video and caption columns"),
    "videofolder": Format("data_tools.videofolder:import_videofolder", "folder with metadata.csv, .jsonl or .parquet"),
    "webdataset": Format(
        "data_tools.webdataset_tar:import_webdataset", "tar shard, or folder of shards", ("num_holdout", "seed")
    ),
    "webvid": Format("data_tools.webvid:import_webvid", "results_2M_train.csv or one like it"),
    "openvid": Format("data_tools.openvid:import_openvid", "OpenVid-1M.csv or one like it"),
    "panda70m": Format("data_tools.panda70m:import_panda70m", "panda70m_training_2m.csv or one like it"),
    "msrvtt": Format(
        "data_tools.msrvtt:import_msrvtt",
        "folder with MSRVTT_JSFUSION_test.csv, msrvtt_caption_test.json, MSRVTT_data.json ...",
        PROTOCOL_OPTIONS,
        ("1ka", "full", "train-9k", "train-7k", "train-full"),
    ),
    "msvd": Format(
        "data_tools.msvd:import_msvd",
        "folder with captions_msvd.json, {train,val,test}_list.txt and perhaps msvd_cn/",
        PROTOCOL_OPTIONS,
        ("test", "train", "all"),
    ),
    "vatex": Format(
        "data_tools.vatex:import_vatex",
        "vatex_training_v1.0.json, vatex_validation_v1.0.json or vatex_public_test_english_v1.1.json",
        PROTOCOL_OPTIONS,
        ("train", "val", "test"),
        needs_protocol=True,
    ),
    "didemo": Format(
        "data_tools.didemo:import_didemo",
        "folder with didemo_data_{train,val,test}.jsonl or {train,val,test}_data.json",
        PROTOCOL_OPTIONS,
        ("paragraph", "moments", "train", "train-moments"),
    ),
    "activitynet": Format(
        "data_tools.activitynet:import_activitynet",
        "actnet_data_val1.jsonl, val_1.json or train.json",
        PROTOCOL_OPTIONS,
        ("paragraph", "train"),
    ),
    "lsmdc": Format(
        "data_tools.lsmdc:import_lsmdc",
        "folder with LSMDC16_challenge_1000_publictect.csv, or LSMDC16_annos_training.csv and LSMDC16_annos_val.csv",
        PROTOCOL_OPTIONS,
        ("test", "train"),
    ),
    "youku": Format(
        "data_tools.youku:import_youku",
        "retrieval_train.csv, retrieval_val.csv or retrieval_test.csv of Youku-mPLUG",
        PROTOCOL_OPTIONS,
        ("train", "val", "test"),
        needs_protocol=True,
    ),
    "sports1m": Format(
        "data_tools.sports1m:import_sports1m",
        "train_partition.txt or test_partition.txt of Sports-1M, with labels.txt beside it or one folder above",
        ("video_dir", "seed"),
    ),
    "youtube8m": Format(
        "data_tools.youtube8m:import_youtube8m",
        "folder with {train,validate,test}*.tfrecord and perhaps vocabulary.csv, or one such file",
        (),
    ),
    "world": Format("data_tools.world.importer:import_world", None, ("seed", "assignments", "workers")),
}
