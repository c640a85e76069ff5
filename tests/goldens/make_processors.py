"""Writes goldens of image processors: what `AutoImageProcessor` and `open_clip` make of generated pictures.

Run: python tests/goldens/make_processors.py 4            (pillow 13, transformers 4.57.6, torch, torchvision, timm, open_clip, blake3)
     python tests/goldens/make_processors.py 5            (the same with transformers 5.24)
processors_4.json, processors_5.json   setting -> its files (preprocessor_config, config, ...), and per picture the shape and the
                                       BLAKE3 of the little-endian f32 tensor; null where transformers fails
orientations.json                      EXIF and XMP, in hexadecimal digits, and the orientation that Pillow takes from them
A picture "WxH" has the pixels `(7 x + 13 y + 29 c + 3 x y + x x) mod 256` of channels c = 0, 1, 2.
"""

import io
import json
import pathlib
import struct
import sys
import tempfile
import warnings

import numpy as np
import transformers
from blake3 import blake3
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

OUT = pathlib.Path(__file__).parent / "preprocess"
EDITION = int(sys.argv[1])
assert transformers.__version__.split(".")[0] == str(EDITION), transformers.__version__
warnings.simplefilter("ignore")
transformers.utils.logging.set_verbosity_error()
PICTURES = ["1x1", "2x3", "131x97", "97x131", "64x64", "300x20", "20x310", "200x150", "151x201"]
HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def picture(name):
    width, height = map(int, name.split("x"))
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return Image.fromarray(((7 * x + 13 * y + 29 * c + 3 * x * y + x * x) % 256).astype(np.uint8))


def named(kind, suffix="ImageProcessor", **keys):
    return {"preprocessor_config": {"image_processor_type": kind + suffix, **keys}}


def model(kind, **keys):
    """Without `image_processor_type`."""
    return {"preprocessor_config": keys, "config": {"model_type": kind}}


SQUARE = {"height": 40, "width": 50}
# Read alike by both.
BOTH = {
    # keys of other classes
    "blip_foreign": named("Blip", size=SQUARE, do_pad=True, size_divisor=32, crop_pct=0.5, offset=True, patch_size=3),
    "clip_foreign": named("CLIP", size=36, crop_size=30, size_divisor=32, do_flip_channel_order=True, do_thumbnail=True,
                          do_image_splitting=True, max_image_size={"longest_edge": 20}, rescale_offset=True),
    "vit_foreign": named("ViT", size=SQUARE, do_align_long_axis=True, data_format="channels_last", do_convert_rgb=False,
                         include_top=True),
    # forms of sizes and numbers
    "vit_integer": named("ViT", size=33),
    "vit_list": named("ViT", size=[33, 21], image_mean=0.4, image_std=0.3),
    "clip_integer": named("CLIP", size=33, crop_size=21),
    "clip_list": named("CLIP", size=[33, 21], crop_size=[20, 30]),
    "clip_square": named("CLIP", size={"height": 30, "width": 20}, crop_size=25, rescale_factor=0.01),
    "old_clip": {"preprocessor_config": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32, "resample": 3,
                                         "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}},
    "old_vit": {"preprocessor_config": {"feature_extractor_type": "ViTFeatureExtractor", "size": 40, "resample": 2}},
    # classes
    "beit": named("Beit", size=SQUARE, do_center_crop=True, crop_size=33),
    "beit_uncropped": named("Beit", size=SQUARE, do_center_crop=False),
    "bit": named("Bit", size=50, crop_size=44),
    "chameleon": named("Chameleon", size=50, crop_size=44),
    "chinese_clip": named("ChineseCLIP", size=SQUARE, crop_size={"height": 33, "width": 41}),
    "chinese_clip_uncropped": named("ChineseCLIP", size=SQUARE, do_center_crop=False),
    "convnext": named("ConvNext", size=48, resample=3),
    "convnext_pct": named("ConvNext", size={"shortest_edge": 48}, crop_pct=0.95, resample=2),
    "convnext_large": named("ConvNext", size={"shortest_edge": 384}, resample=3, **HALF),
    "deit": named("DeiT", size=52, crop_size=44),
    "efficientnet": named("EfficientNet", size=SQUARE, resample=0),
    "efficientnet_offset": named("EfficientNet", size=SQUARE, resample=2, rescale_offset=True, rescale_factor=1 / 127.5, include_top=False),
    "efficientnet_crop": named("EfficientNet", size=SQUARE, resample=3, do_center_crop=True, crop_size=44, include_top=True, **HALF),
    "efficientnet_top_only": named("EfficientNet", size=SQUARE, resample=3, do_normalize=False),
    "flava": named("Flava", size=SQUARE, crop_size=35),
    "levit": named("Levit", size=49, crop_size=44),
    "levit_square": named("Levit", size=SQUARE, crop_size=33),
    "llava": named("Llava", size=45, crop_size=44),
    "llava_pad": named("Llava", size=45, crop_size=44, do_pad=True),
    "mobilenet_v1": named("MobileNetV1", size=46, crop_size=40),
    "mobilenet_v2": named("MobileNetV2", size=46, crop_size=40),
    "mobilevit": named("MobileViT", size=46, crop_size=50, resample=2),
    "mobilevit_rgb": named("MobileViT", size=46, crop_size=40, resample=3, do_flip_channel_order=False, do_normalize=True, **HALF),
    "owlvit": named("OwlViT", size=SQUARE),
    "owlvit_crop": named("OwlViT", size=SQUARE, do_center_crop=True, crop_size=44),
    "perceiver": named("Perceiver", size=45, crop_size=51),
    "perceiver_odd": named("Perceiver", size={"height": 40, "width": 50}, crop_size={"height": 38, "width": 60}),
    "perceiver_uncropped": named("Perceiver", size=45, do_center_crop=False),
    "poolformer": named("PoolFormer", size=45, crop_size=44),
    "poolformer_square": named("PoolFormer", size={"height": 45, "width": 45}, crop_pct=0.8, crop_size=44),
    "poolformer_oblong": named("PoolFormer", size=SQUARE, crop_pct=0.8, crop_size=44),
    "pvt": named("Pvt", size=SQUARE, resample=2),
    "segformer": named("Segformer", size=SQUARE, do_reduce_labels=True, do_center_crop=True, crop_size=20),
    "siglip": named("Siglip", size=SQUARE),
    # by the model
    "model_vit": model("vit", size=SQUARE),
    "model_swin": model("swin", size=SQUARE),
    "model_dinov2": model("dinov2", size=40, crop_size=36),
    "model_clip": model("clip", size=40, crop_size=36),
    "model_convnext": model("convnext", size=40, resample=3),
    "model_siglip": model("siglip", size=SQUARE),
    "model_mobilevit": model("mobilevit", size=40, resample=2, crop_size=36),
}
FOUR = {
    "convnext_null": named("ConvNext", size=30, crop_pct=None, resample=3),
    "null_flags": named("CLIP", size=40, crop_size=36, do_center_crop=None, do_normalize=None, do_rescale=None),
    "null_resize": named("CLIP", do_resize=None, crop_size=44),
    "edges": named("CLIP", size={"shortest_edge": 40, "longest_edge": 50}, crop_size=39),
    "vit_crop": named("ViT", size=SQUARE, do_center_crop=True, crop_size=20),
    "square_size": named("CLIP", size=40, crop_size=39, use_square_size=True),
    "beit_defaults": named("Beit"),
    "efficientnet_defaults": named("EfficientNet"),
    "mobilevit_defaults": named("MobileViT"),
    "poolformer_null": named("PoolFormer", size=45, crop_size=44, crop_pct=None),
    "donut": named("Donut", size={"height": 60, "width": 44}),
    "donut_wide": named("Donut", size={"height": 44, "width": 60}, do_align_long_axis=True, resample=3),
    "donut_list": named("Donut", size=[44, 60], do_align_long_axis=True),
    "donut_old": {"preprocessor_config": {"feature_extractor_type": "DonutFeatureExtractor", "size": [60, 80], "do_thumbnail": True,
                                          "do_align_long_axis": False, "do_pad": True, "resample": 2}},
    "donut_small": named("Donut", size={"height": 20, "width": 20}),
    "timm": {"config": {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {
        "input_size": [3, 48, 48], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}},
    "timm_defaults": {"config": {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 50, 50]}}},
    "timm_oblong": {"config": {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {
        "input_size": [3, 40, 55], "interpolation": "bilinear", "crop_pct": 0.95, "mean": [0.5], "std": [0.25]}}},
    "timm_squash": {"config": {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {
        "input_size": [3, 48, 48], "interpolation": "lanczos", "crop_pct": 0.9, "crop_mode": "squash"}}},
    "timm_border": {"config": {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {
        "input_size": [3, 48, 41], "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "border",
        "mean": [0.5, 0.3, 0.7], "std": [0.2, 0.3, 0.4]}}},
    "timm_border_crop": {"config": {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {
        "input_size": [3, 45, 45], "interpolation": "hamming", "crop_pct": 0.8, "crop_mode": "border"}}},
}


def clip_settings(**keys):
    return {"open_clip_config": {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": keys.pop("image_size", 44)}},
                                 "preprocess_cfg": keys}}


OPEN_CLIP = {
    "open_clip": clip_settings(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4], interpolation="bicubic", resize_mode="shortest"),
    "open_clip_defaults": clip_settings(),
    "open_clip_squash": clip_settings(interpolation="bilinear", resize_mode="squash"),
    "open_clip_longest": clip_settings(interpolation="bicubic", resize_mode="longest", fill_color=7),
    "open_clip_oblong": clip_settings(image_size=[40, 51], resize_mode="shortest", interpolation="bilinear"),
    "open_clip_oblong_longest": clip_settings(image_size=[40, 51], resize_mode="longest", interpolation="bilinear"),
}


def nested(kind, suffix="ImageProcessor", **keys):
    return {"processor_config": {"image_processor": {"image_processor_type": kind + suffix, **keys}, "processor_class": "X"}}


FIVE = {
    "fast_vit_crop": named("ViT", "ImageProcessorFast", size=SQUARE, do_center_crop=True, crop_size=30),
    "fast_null": named("CLIP", "ImageProcessorFast", size=40, crop_size=36, do_center_crop=None, do_normalize=None, do_pad=None,
                       pad_size=None, device=None, disable_grouping=None, input_data_format=None),
    "pil_clip": named("CLIP", "ImageProcessorPil", size=40, crop_size=36),
    "nested_clip": nested("CLIP", size=40, crop_size=36),
    "nested_blip": nested("Blip", size=SQUARE, do_pad=True),
    "nested_pad": nested("Blip", size=SQUARE, do_pad=True, pad_size={"height": 48, "width": 57}),
    "nested_edges": nested("CLIP", size={"shortest_edge": 40, "longest_edge": 50}, crop_size=39),
    "nested_within": nested("CLIP", size={"max_height": 40, "max_width": 50}, crop_size=39),
    "nested_vit_short": nested("ViT", size={"shortest_edge": 40}, do_center_crop=True, crop_size=30),
    "nested_not_square": nested("ViT", size=40, default_to_square=False, do_center_crop=True, crop_size=30),
    "nested_siglip_integer": nested("Siglip", size=40, do_center_crop=True, crop_size=30),
    "nested_chinese_clip": nested("ChineseCLIP", size=40, crop_size=30),
    "nested_square_size": nested("CLIP", size=40, crop_size=39, use_square_size=True),
    "nested_beit": nested("Beit"),
    "nested_convnext": nested("ConvNext", size=40),
    "nested_efficientnet": nested("EfficientNet", size=SQUARE),
    "nested_mobilevit": nested("MobileViT", size=40, crop_size=44),
    "nested_pvt": nested("Pvt", size=SQUARE),
    "nested_donut": nested("Donut", size={"height": 60, "width": 44}),
    "nested_donut_turn": nested("Donut", size={"height": 44, "width": 60}, do_align_long_axis=True, resample=0),
    "nested_donut_list": nested("Donut", size=[44, 60], resample=3),
    "nested_poolformer_null": nested("PoolFormer", size=45, crop_size=44, crop_pct=None),
    "saved_by_5": {"preprocessor_config": {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "do_center_crop": True,
                                           "crop_size": 30}, "config": {"model_type": "vit", "transformers_version": "5.24.0"}},
    "saved_donut": {"preprocessor_config": {"image_processor_type": "DonutImageProcessor", "size": {"height": 60, "width": 44}},
                    "config": {"model_type": "donut-swin", "transformers_version": "5.2.0"}},
}


def result(run):
    try:
        values = np.ascontiguousarray(run(), dtype="<f4")
    except Exception:
        return None
    return {"shape": list(values.shape), "blake3": blake3(values.tobytes()).hexdigest(), "first": float(values.flat[0])}


def transformers_results(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (pathlib.Path(folder) / f"{name}.json").write_text(json.dumps(content))
        how = {"use_fast": False} if EDITION == 4 else {"backend": "pil"}
        processor = AutoImageProcessor.from_pretrained(folder, **how)
    if type(processor).__name__ == "TimmWrapperImageProcessor":
        return {name: result(lambda: processor(picture(name)).pixel_values[0]) for name in PICTURES}
    # Said outright: transformers 4 guesses the layout, wrongly for small images.
    layout = {"input_data_format": "channels_last"} if EDITION == 4 else {}
    return {name: result(lambda: processor(picture(name), return_tensors="np", **layout)["pixel_values"][0]) for name in PICTURES}


def open_clip_results(files):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    config = files["open_clip_config"]
    run = image_transform_v2(PreprocessCfg(**{**config["preprocess_cfg"], "size": config["model_cfg"]["vision_cfg"]["image_size"]}), False)
    return {name: result(lambda: run(picture(name))) for name in PICTURES}


def ifd(entries, order="<", outside=b"", magic=42):
    """EXIF with these (tag, type, count, four bytes or the offset into `outside`)."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", magic, 8)
    after = 8 + 2 + 12 * len(entries) + 4
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(order + "HHI", tag, kind, count)
        body += value if isinstance(value, bytes) else struct.pack(order + "I", after + value)
    return head + body + b"\0\0\0\0" + outside


def orientations():
    tag, cases = 0x0112, {}
    formats = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 11: "f"}
    for order in "<>":
        for kind, letter in formats.items():
            for value in (6, 3, 8, 1) + ((-6,) if letter in "bhi" else (9,)):
                cases[f"type {kind} {order} {value}"] = ifd([(tag, kind, 1, struct.pack(order + letter, value).ljust(4, b"\0"))], order)
        cases[f"two shorts {order}"] = ifd([(tag, 3, 2, struct.pack(order + "HH", 6, 3))], order)
        cases[f"three shorts {order}"] = ifd([(tag, 3, 3, 0)], order, struct.pack(order + "HHH", 8, 3, 1))
        cases[f"two longs {order}"] = ifd([(tag, 4, 2, 0)], order, struct.pack(order + "II", 5, 3))
        cases[f"fraction {order}"] = ifd([(tag, 5, 1, 0)], order, struct.pack(order + "II", 12, 2))
        cases[f"fraction of nothing {order}"] = ifd([(tag, 5, 1, 0)], order, struct.pack(order + "II", 12, 0))
        cases[f"signed fraction {order}"] = ifd([(tag, 10, 1, 0)], order, struct.pack(order + "ii", -6, -1))
        cases[f"double {order}"] = ifd([(tag, 12, 1, 0)], order, struct.pack(order + "d", 7.0))
        cases[f"double with fraction {order}"] = ifd([(tag, 12, 1, 0)], order, struct.pack(order + "d", 6.5))
        cases[f"long8 {order}"] = ifd([(tag, 16, 1, 0)], order, struct.pack(order + "Q", 4))
        cases[f"wrong header {order}"] = ifd([(tag, 3, 1, struct.pack(order + "HH", 6, 0))], order, magic=42 << 8)
    cases["byte"] = ifd([(tag, 1, 1, b"\6\0\0\0")])
    cases["text"] = ifd([(tag, 2, 2, b"6\0\0\0")])
    cases["undefined"] = ifd([(tag, 7, 1, b"\6\0\0\0")])
    cases["signed long8"] = ifd([(tag, 17, 1, 0)], outside=struct.pack("<q", 6))
    cases["unknown type, then short"] = ifd([(tag, 99, 1, b"\3\0\0\0"), (tag, 3, 1, b"\6\0\0\0")])
    cases["twice"] = ifd([(tag, 3, 1, b"\6\0\0\0"), (tag, 3, 1, b"\3\0\0\0")])
    cases["none, then short"] = ifd([(tag, 3, 0, b"\3\0\0\0"), (tag, 3, 1, b"\6\0\0\0")])
    cases["behind a tag beyond the end"] = ifd([(0x010F, 2, 30, 10000), (tag, 3, 1, b"\6\0\0\0")], outside=b"x" * 40)
    cases["behind a tag larger than all"] = ifd([(0x010F, 2, 30000, 0), (tag, 3, 1, b"\6\0\0\0")])
    cases["behind a text"] = ifd([(0x010F, 2, 8, 0), (tag, 3, 1, b"\6\0\0\0")], outside=b"company\0")
    second = ifd([])[:-4]
    cases["second directory"] = second + struct.pack("<I", 14) + ifd([(tag, 3, 1, b"\6\0\0\0")])[8:]
    cases["prefixed twice"] = b"Exif\0\0" + ifd([(tag, 3, 1, b"\6\0\0\0")])
    cases["cut entry"] = ifd([(tag, 3, 1, b"\6\0\0\0")])[:18]
    cases["no header"] = b"nonsense without a header"
    cases["empty"] = b""
    xmp = {
        "": "", "attribute": '<x tiff:Orientation="8"/>', "element": "<tiff:Orientation>3</tiff:Orientation>",
        "nothing": '<x tiff:Orientation="0"/><x tiff:Orientation="6"/>', "nine": '<tiff:Orientation>9<',
        "spaced": '<x tiff:Orientation = "8"/><tiff:Orientation>5<', "single quotes": "<x tiff:Orientation='8'/>",
        "two digits": '<x tiff:Orientation="61"/>',
    }
    inside = {"no EXIF": None, "EXIF without": ifd([]), "EXIF 1": cases["type 3 < 1"], "EXIF text": cases["text"], "bad EXIF": cases["no header"],
              "empty EXIF": b""}
    answers = []
    for name, exif, packet in [(n, e, "") for n, e in cases.items()] + [
            (f"{n}, XMP {x}", e, packet) for n, e in inside.items() for x, packet in xmp.items()]:
        out = io.BytesIO()
        Image.new("RGB", (3, 2)).save(out, "JPEG")
        jpeg = out.getvalue()
        segments = b""
        for content in ([b"Exif\0\0" + exif] if exif is not None else []) + ([b"http://ns.adobe.com/xap/1.0/\0" + packet.encode()] if packet else []):
            segments += b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
        try:
            image = Image.open(io.BytesIO(jpeg[:2] + segments + jpeg[2:]))
            found = image.getexif().get(tag, 1)
            found = int(found) if found in range(1, 9) else 1
            assert (ImageOps.exif_transpose(image).size == (2, 3)) == (found > 4), name
        except (SyntaxError, struct.error):
            found = 1  # Pillow cannot read such a file.
        digits = None if exif is None else exif.hex()
        answers.append({"name": name, "exif": digits, "xmp": packet.encode().hex() or None, "orientation": found})
    return answers


def write(name, data):
    lines = json.dumps(data, sort_keys=True).replace('}, "', '},\n"').replace("}, {", "},\n{")
    (OUT / name).write_text(lines + "\n")


settings = {**BOTH, **(FOUR if EDITION == 4 else FIVE)}
answers = {name: {"files": files, "pictures": transformers_results(files)} for name, files in settings.items()}
if EDITION == 4:
    answers |= {name: {"files": files, "pictures": open_clip_results(files)} for name, files in OPEN_CLIP.items()}
    write("orientations.json", orientations())
write(f"processors_{EDITION}.json", answers)
for name, answer in answers.items():
    failed = [picture for picture, values in answer["pictures"].items() if values is None]
    if failed:
        print(f"{name}: transformers fails with {', '.join(failed)}")
