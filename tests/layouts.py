"""Small imitations of data sets, laid out like their official files.

`LAYOUTS` names the files of each, and what every split holds.
"""

import csv
import io
import json
import pickle
import tarfile

import numpy as np
from PIL import Image

from mplug2_jax.data import shapes

CLIP = shapes.encode_mp4(
    shapes.render(shapes.make_scene(np.random.default_rng(0)), 3, 16)
)


def picture(suffix):
    frames = [Image.new("RGB", (8, 8), (i * 90, 0, 0)) for i in range(3)]
    more = {"save_all": True, "append_images": frames[1:]} if suffix == "gif" else {}
    frames[0].save(buffer := io.BytesIO(), {"jpg": "jpeg"}.get(suffix, suffix), **more)
    return buffer.getvalue()


MEDIA = {".mp4": CLIP, ".avi": CLIP} | {
    f".{kind}": picture(kind) for kind in ("jpg", "png", "gif")
}


def write(root, files):
    """Files by name: bytes and texts as they are, other values as JSON.

    Names that end in a medium's extension may be given without a content.
    """
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = MEDIA[path.suffix] if content is None else content
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def media(*names):
    return dict.fromkeys(names)


def table(rows, delimiter=","):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def tar(**members):
    """A tar of KEY.txt, KEY.json and, unless it is None, KEY.SUFFIX."""
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as file:
        for key, suffix in members.items():
            contents = {"json": b"{}", "txt": f"text of {key}".encode()}
            if suffix:
                contents[suffix] = MEDIA[f".{suffix}"]
            for ending, data in contents.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def msrvtt(videos=(("video0", "train"), ("video1", "validate"))):
    both = [[{"video_id": v, "split": s} for v, s in videos]]
    both.append([{"video_id": "video2", "split": "test"}])
    names = ("train_val_videodatainfo.json", "test_videodatainfo.json")
    files = media(
        *(f"TrainValVideo/{v}.mp4" for v, _ in videos), "TestVideo/video2.mp4"
    )
    for name, listed in zip(names, both, strict=True):
        sentences = [
            {"video_id": v["video_id"], "caption": f"{v['video_id']} {n}", "sen_id": n}
            for n in range(2)
            for v in listed
        ]
        files[name] = {"videos": listed, "sentences": sentences}
    return files


def qa():
    files = {}
    for number, name in enumerate(("train", "val", "test"), 1):
        first = {
            "question": "what is it?",
            "answer": "red",
            "video_id": number,
            "id": 7,
        }
        other = {**first, "question": "how many?", "answer": "two", "id": 8}
        files[f"{name}_qa.json"] = [first, other]
    return files


ASKED = [("what is it?", ("red",), None, "7"), ("how many?", ("two",), None, "8")]
CLIPS = [f"c{i}_0_{i}" for i in range(1, 1303)]
MAPPING = "".join(f"{clip} vid{i}\n" for i, clip in enumerate(CLIPS, 1))
MSVD = media(*(f"YouTubeClips/{CLIPS[i]}.avi" for i in (0, 1, 2, 1200, 1300)))
# Of the second clip there is none.
MSVD_CAPTIONS = "# header\n\n" + "".join(
    f"{clip} {text}\n"
    for text, clips in (("a dog", [CLIPS[0], *CLIPS[2:]]), ("a man runs", CLIPS[:1]))
    for clip in clips
)
TGIF = {"gif_name": "g_a", "question": "what color ?", "answer": "red", "type": "2"}
TGIF |= {"vid_id": "F1", "key": "1", "description": "a man"}
WEBVID = [
    {"videoid": i, "contentUrl": "u", "duration": "PT", "page_dir": "p/1"}
    | {"name": f'a "{i}"\nb'}
    for i in range(5)
]
PAIRS = [{"image": f"train/{k}.jpg", "caption": f"text of {k}"} for k in ("000", "001")]
IMAGES = media("train/000.jpg", "train/001.jpg")
COCO = [
    {"cocoid": i, "split": split, "filepath": "val2014", "filename": f"C_{i}.jpg"}
    | {"sentences": [{"raw": f"caption {i} "}]}
    for i, split in enumerate(("train", "restval", "val", "test"))
]
FLICKR = [
    {"filename": f"{i}7.jpg", "imgid": i, "split": split}
    | {"sentences": [{"raw": f"caption {i}."}, {"raw": "another "}]}
    for i, split in enumerate(("train", "val", "test"))
]
MOVIE = "0001_Movie_00.00.{}-00.00.59.0"
SCRIPT = "\t00:00:01.0\t00:00:02.0\t00:00:01.5\t00:00:02.5\t"
MOMENTS = [
    {"video": "a@N0_1.mov", "description": "a man runs", "times": [[0, 1]]},
    {"video": "b@N0_2.mp4", "description": "rain", "times": [[2, 2]]},
    {"video": "a@N0_1.mov", "description": "he stops. ", "times": [[3, 3]]},
]
REGIONS = [{"phrase": p, "image_id": 5} for p in ("a dog", "a dog", "a cat ")]
VQA_NAMES = ("train2014", "val2014", "test2015", "test-dev2015")
VQA_ASKED = [
    {"image_id": image, "question": f"q{id_}?", "question_id": id_}
    for image, id_ in ((9, 9000), (25, 25000), (9, 9001))
]
VQA_SAID = [
    {"question_type": "is", "answer_type": kind, "multiple_choice_answer": said[0]}
    | {"image_id": asked["image_id"], "question_id": asked["question_id"]}
    | {
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": n}
            for n, answer in enumerate(said, 1)
        ]
    }
    for asked, kind, said in zip(
        VQA_ASKED,
        ("yes/no", "number", "other"),
        (["no"] + ["yes"] * 9, ["2"] * 10, ["net"] * 7 + ["nets", "white net", "nets"]),
        strict=True,
    )
]
VQA_ANSWERED = {
    "9": [
        ("q9000?", ("yes", "no"), "yes/no", "9000"),
        ("q9001?", ("net", "nets", "white net"), "other", "9001"),
    ],
    "25": [("q25000?", ("2",), "number", "25000")],
}
VQA_OPEN = {
    image: [(question, (), None, id_) for question, _, _, id_ in its]
    for image, its in VQA_ANSWERED.items()
}
NOCAPS = [
    {"id": i, "open_images_id": f"0{i}a", "file_name": f"0{i}a.jpg", "width": 8}
    for i in range(2)
]
NOCAPS_CAPTIONS = [
    {"image_id": image, "id": n, "caption": f"caption {n}. "}
    for n, image in enumerate((0, 1, 0))
]
VG_QA = [{"image_id": 5, "qa_id": 9, "question": "who?", "answer": "a dog."}]

# Two phrases of one object, and one of another; the first reaches over the edge a bit.
PLACES = {"a": [0, 2.0, 4, 6.005], "b": [1.0, 1.0, 2, 2]}
PLACED = [
    ("the left one", (0, 0.25, 0.5, 1), "0"),
    ("red", (0, 0.25, 0.5, 1), "1"),
    ("a dog", (0.125, 0.125, 0.375, 0.375), "2"),
]


def refcoco(splits, places=PLACES):
    """`refs(...).p` and `instances.json`: two objects of one image for each split."""
    refs = [
        {
            "ref_id": number,
            "split": split,
            "image_id": image,
            "ann_id": f"{image} {name}",
            "category_id": 1,
            "file_name": f"COCO_train2014_{image}_{number}.jpg",
            "sent_ids": [int(id_) for *_, id_ in phrases],
            "sentences": [
                {"sent": text, "raw": text, "tokens": text.split(), "sent_id": int(id_)}
                for text, _, id_ in phrases
            ],
        }
        for image, split in enumerate(splits)
        for number, (name, phrases) in enumerate(
            {"a": PLACED[:2], "b": PLACED[2:]}.items()
        )
    ]
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i}.jpg", "width": 8, "height": 8}
        for i in range(len(splits))
    ]
    instances = [
        {"id": f"{i} {name}", "image_id": i, "bbox": box, "iscrowd": 0}
        for i in range(len(splits))
        for name, box in places.items()
    ]
    return pickle.dumps(refs, 2), {"images": images, "annotations": instances}


def refcoco_files(folder, partition, splits, places=PLACES):
    refs, instances = refcoco(splits, places)
    files = {f"{folder}/refs({partition}).p": refs}
    files |= {f"{folder}/instances.json": instances}
    return files | media(*(f"train2014/{i['file_name']}" for i in instances["images"]))


UNC = {"train": "train", "val": "validation", "testA": "testA", "testB": "testB"}
UMD = {"train": "train", "val": "validation", "test": "test"}


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def entailed(image, *labels, key="Flickr30K_ID"):
    """Lines of SNLI-VE about an image."""
    return [
        {key: image, "sentence2": f"{label} {n}.", "gold_label": label}
        | {"pairID": f"{image}.jpg#{n}r1", "sentence1": "a caption"}
        for n, label in enumerate(labels)
    ]


def true_of(pair, *labels):
    """Lines of NLVR2 about a pair of images."""
    return [
        {"identifier": f"{pair}-{n}", "sentence": f"both {n}.", "label": label}
        for n, label in enumerate(labels)
    ]


NLVR2 = {
    "train": [true_of("train-10-0", "True", "False"), true_of("train-10-1", "True")],
    "dev": [true_of("dev-2-3", "False")],
    "test1": [true_of("test1-0-1", "True")],
}
KINETICS = [
    {"label": label, "youtube_id": name, "time_start": str(start)}
    | {"time_end": str(start + 10), "split": "train"}
    for label, name, start in (
        ("riding a bike", "-3B32lodo2M", 59),
        ("air drumming", "a_b", 0),
        ("air drumming", "vanished", 3),
    )
]
KINETICS_CLASSES = {
    "-3B32lodo2M_000059_000069": ("riding a bike",),
    "a_b_000000_000010": ("air drumming",),
}
SSV2 = [
    {"id": str(n), "label": f"putting {a} on {b}", "placeholders": [a, b]}
    | {"template": "Putting [something] on [something soft]"}
    for n, a, b in ((7, "a cup", "a cloth"), (19, "a pen", "a pillow"))
]
SSV2_CLASSES = {
    "7": ("Putting something on something soft",),
    "19": ("Putting something on something soft",),
}

# By data set and layout: the files, and by split each example's captions, questions
# or regions.
LAYOUTS = {
    "msrvtt_caption": (
        msrvtt(),
        {
            "train": {"video0": ("video0 0", "video0 1")},
            "validation": {"video1": ("video1 0", "video1 1")},
            "test": {"video2": ("video2 0", "video2 1")},
        },
    ),
    "msrvtt_qa": (
        qa() | media(*(f"video/video{number}.mp4" for number in (1, 2, 3))),
        {
            "train": {"video1": ASKED},
            "validation": {"video2": ASKED},
            "test": {"video3": ASKED},
        },
    ),
    "msrvtt_retrieval": (
        {
            "MSRVTT_data.json": {
                "videos": [],
                "sentences": [
                    {"video_id": f"video{i}", "caption": f"c{i}"} for i in (0, 1, 1)
                ],
            },
            "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo1\n",
            "MSRVTT_JSFUSION_test.csv": table(
                [{"key": "ret0", "video_id": "video2", "sentence": "a, b"}]
            ),
            **media(*(f"videos/all/video{number}.mp4" for number in range(3))),
        },
        {
            "train": {"video0": ("c0",), "video1": ("c1", "c1")},
            "test": {"video2": ("a, b",)},
        },
    ),
    "msvd_caption": (
        {
            **MSVD,
            "youtube_mapping.txt": MAPPING,
            "AllVideoDescriptions.txt": MSVD_CAPTIONS,
        },
        {
            "train": {CLIPS[0]: ("a dog", "a man runs"), CLIPS[2]: ("a dog",)},
            "validation": {CLIPS[1200]: ("a dog",)},
            "test": {CLIPS[1300]: ("a dog",)},
        },
    ),
    "msvd_qa": (
        {**qa(), **MSVD, "youtube_mapping.txt": MAPPING},
        {
            "train": {"vid1": ASKED},
            "validation": {"vid2": ASKED},
            "test": {"vid3": ASKED},
        },
    ),
    "tgif_frame_qa": (
        {f"{s}_frameqa_question.csv": table([TGIF], "\t") for s in ("Train", "Test")}
        | media("gifs/g_a.gif"),
        {
            split: {"g_a": [("what color ?", ("red",), "color", "F1")]}
            for split in ("train", "test")
        },
    ),
    "webvid_2m csv": (
        {"results_2M_train.csv": table(WEBVID)}
        | media(*(f"videos/p/1/{number}.mp4" for number in (0, 1, 4))),
        {"train": {str(i): (f'a "{i}"\nb',) for i in (0, 1, 4)}},
    ),
    "webvid_2m tar": (
        {"train/00000.tar": tar(v="mp4", w=None)},
        {"train": {"00000/v": ("text of v",)}},
    ),
    "cc3m tar": (
        {"train/0.tar": tar(a="jpg"), "train/1.tar": tar(b="jpg", c=None)},
        {"train": {"0/a": ("text of a",), "1/b": ("text of b",)}},
    ),
    "cc12m jsonl": (
        {"train.jsonl": "\n".join(map(json.dumps, PAIRS)), **IMAGES},
        {"train": {pair["image"]: (pair["caption"],) for pair in PAIRS}},
    ),
    "sbu tsv": (
        {"train.tsv": table(PAIRS, "\t"), **IMAGES},
        {"train": {pair["image"]: (pair["caption"],) for pair in PAIRS}},
    ),
    "image_text files": (
        {"train/000.txt": "text of 000\n", "train/001.txt": "text of 001", **IMAGES},
        {"train": {"000": ("text of 000",), "001": ("text of 001",)}},
    ),
    "didemo_retrieval": (
        {
            "train_data.json": MOMENTS,
            "val_data.json": MOMENTS[1:2],
            "test_data.json": MOMENTS[1:2],
            **media("videos/a@N0_1.mp4", "videos/b@N0_2.mp4"),
        },
        {
            "train": {"a@N0_1.mov": ("a man runs he stops.",), "b@N0_2.mp4": ("rain",)},
            "validation": {"b@N0_2.mp4": ("rain",)},
            "test": {"b@N0_2.mp4": ("rain",)},
        },
    ),
    "lsmdc_retrieval": (
        {
            "LSMDC16_annos_training.csv": "".join(
                f"{MOVIE.format(clip)}{SCRIPT}{text}\n"
                for clip, text in ((1, "SOMEONE sits."), (2, 'He "waits'), (1, "Rain."))
            ),
            "LSMDC16_annos_val.csv": f"{MOVIE.format(3)}{SCRIPT}A car, red.\r\n",
            "LSMDC16_challenge_1000_publictect.csv": MOVIE.format(4)
            + SCRIPT
            + "Night.",
            **media(*(f"videos/0001_Movie/{MOVIE.format(i)}.avi" for i in range(1, 5))),
        },
        {
            "train": {
                MOVIE.format(1): ("SOMEONE sits.", "Rain."),
                MOVIE.format(2): ('He "waits',),
            },
            "validation": {MOVIE.format(3): ("A car, red.",)},
            "test": {MOVIE.format(4): ("Night.",)},
        },
    ),
    **{
        name: (
            refcoco_files(folder, partition, splits),
            {split: {str(i): PLACED} for i, split in enumerate(splits.values())},
        )
        for name, folder, partition, splits in (
            ("refcoco", "refcoco", "unc", UNC),
            ("refcoco_plus", "refcoco+", "unc", UNC),
            ("refcocog", "refcocog", "umd", UMD),
        )
    },
    "flickr30k_captions": (
        {"dataset_flickr30k.json": {"images": FLICKR, "dataset": "flickr30k"}}
        | media(*(f"flickr30k-images/{i}7.jpg" for i in range(3))),
        {
            "train": {"07": ("caption 0.", "another")},
            "validation": {"17": ("caption 1.", "another")},
            "test": {"27": ("caption 2.", "another")},
        },
    ),
    "coco_captions": (
        {"dataset_coco.json": {"images": COCO, "dataset": "coco"}}
        | media(*(f"val2014/C_{i}.jpg" for i in range(4))),
        {
            "train": {"0": ("caption 0",), "1": ("caption 1",)},
            "validation": {"2": ("caption 2",)},
            "test": {"3": ("caption 3",)},
        },
    ),
    "visual_genome": (
        {"region_descriptions.json": [{"id": 5, "regions": REGIONS}]}
        | media("VG_100K_2/5.jpg"),
        {"train": {"5": ("a dog", "a cat")}},
    ),
    "visual_genome_qa": (
        {"question_answers.json": [{"id": 5, "qas": VG_QA}]} | media("VG_100K/5.jpg"),
        {"train": {"5": [("who?", ("a dog.",), None, "9")]}},
    ),
    "vqa_v2": (
        {
            f"v2_OpenEnded_mscoco_{name}_questions.json": {
                "data_subtype": name,
                "questions": VQA_ASKED,
            }
            for name in VQA_NAMES
        }
        | {
            f"v2_mscoco_{name}_annotations.json": {"annotations": VQA_SAID}
            for name in VQA_NAMES[:2]
        }
        | media(
            *(
                f"{folder}/COCO_{folder}_{image:012d}.jpg"
                for folder in VQA_NAMES[:3]
                for image in (9, 25)
            )
        ),
        {
            "train": VQA_ANSWERED,
            "validation": VQA_ANSWERED,
            "test": VQA_OPEN,
            "test_dev": VQA_OPEN,
        },
    ),
    "nocaps": (
        {
            "nocaps_val_4500_captions.json": {
                "images": [
                    {**image, "domain": domain}
                    for image, domain in zip(
                        NOCAPS, ("in-domain", "out-domain"), strict=True
                    )
                ],
                "annotations": NOCAPS_CAPTIONS,
            },
            "nocaps_test_image_info.json": {"images": NOCAPS},
            **media(*(f"images/{image['file_name']}" for image in NOCAPS)),
        },
        {
            "validation": {"0": ("caption 0.", "caption 2."), "1": ("caption 1.",)},
            "test": {"0": (), "1": ()},
        },
    ),
    "snli_ve": (
        {
            "snli_ve_train.jsonl": jsonl(
                *entailed("30", "entailment", "neutral"), *entailed("31", "neutral")
            ),
            "snli_ve_dev.jsonl": jsonl(*entailed("32", "contradiction")),
            # As the generator of 2018 wrote it.
            "snli_ve_test.jsonl": jsonl(
                *entailed("33.jpg", "entailment", key="Flikr30kID")
            ),
            **media(*(f"flickr30k-images/{i}.jpg" for i in range(30, 34))),
        },
        {
            "train": {
                "30": [
                    ("entailment", "entailment 0.", "30.jpg#0r1"),
                    ("neutral", "neutral 1.", "30.jpg#1r1"),
                ],
                "31": [("neutral", "neutral 0.", "31.jpg#0r1")],
            },
            "validation": {"32": [("contradiction", "contradiction 0.", "32.jpg#0r1")]},
            "test": {"33": [("entailment", "entailment 0.", "33.jpg.jpg#0r1")]},
        },
    ),
    "nlvr2": (
        {
            f"{name}.json": jsonl(*(line for lines in pairs for line in lines))
            for name, pairs in NLVR2.items()
        }
        | media(
            *(f"images/train/4/train-10-0-img{side}.png" for side in (0, 1)),
            *(f"images/train/77/train-10-1-img{side}.png" for side in (0, 1)),
            *(f"images/dev/dev-2-3-img{side}.png" for side in (0, 1)),
            *(f"images/test1/test1-0-1-img{side}.png" for side in (0, 1)),
        ),
        {
            "train": {
                "train-10-0": [
                    ("True", "both 0.", "train-10-0-0"),
                    ("False", "both 1.", "train-10-0-1"),
                ],
                "train-10-1": [("True", "both 0.", "train-10-1-0")],
            },
            "validation": {"dev-2-3": [("False", "both 0.", "dev-2-3-0")]},
            "test": {"test1-0-1": [("True", "both 0.", "test1-0-1-0")]},
        },
    ),
    **{
        f"kinetics{classes}": (
            {
                "train.csv": table(KINETICS),
                "annotations/validate.csv": table(KINETICS[:1]),
                "test.csv": table([{**KINETICS[0], "label": ""}]),
            }
            | media(
                "train/riding a bike/-3B32lodo2M_000059_000069.mp4",
                "train/a_b.mp4" if classes == 600 else "train/a_b_000000_000010.mp4",
                "val/-3B32lodo2M_000059_000069.mp4",
            ),
            {
                "train": KINETICS_CLASSES,
                "validation": dict([*KINETICS_CLASSES.items()][:1]),
            },
        )
        for classes in (400, 600, 700)
    },
    "ssv2": (
        {
            "labels/labels.json": {"Putting something on something soft": "0"},
            "labels/train.json": SSV2,
            "labels/validation.json": SSV2[:1],
            "labels/test-answers.csv": "19;Putting something on something soft\n",
        }
        | media(*(f"20bn-something-something-v2/{n}.mp4" for n in (7, 19))),
        {
            "train": SSV2_CLASSES,
            "validation": dict([*SSV2_CLASSES.items()][:1]),
            "test": dict([*SSV2_CLASSES.items()][1:]),
        },
    ),
}
