"""Writes tests/goldens/preprocess/*.json: what Pillow 13 and transformers 4.57.6 (slow image processors) make of the fixtures
and of the sample photographs (those under their path, sample_data/photos/...).

Run: python tests/goldens/make_preprocess.py     (needs pillow, transformers, numpy, blake3)
decoded.json   file -> size and BLAKE3 of the upright RGB bytes
tensors.json   setting -> its preprocessor_config.json, and per file the shape, the BLAKE3 of the little-endian f32
               tensor [3, height, width] and 16 sampled values [index, value], for diagnosis
scaled.json    setting -> its preprocessor_config.json, and per JPEG the size and the BLAKE3 of the upright RGB bytes after
               `Image.draft` towards twice the size that the image processor resizes to, and the BLAKE3 of its tensor
errors.json    file -> error_kind, for the files that must not decode; Pillow must refuse each of them too
"""

import io
import json
import pathlib

import numpy as np
import transformers
from blake3 import blake3
from PIL import Image, ImageOps
from transformers.image_transforms import get_resize_output_image_size
from transformers.models.idefics3 import image_processing_idefics3 as idefics3

ROOT = pathlib.Path(__file__).parent.parent
IMAGES = ROOT / "fixtures" / "images"
PHOTOS = ROOT.parent / "sample_data" / "photos"
OUT = ROOT / "goldens" / "preprocess"
OUT.mkdir(parents=True, exist_ok=True)
Image.MAX_IMAGE_PIXELS = 50_000_000

ERRORS = {
    "error_truncated.jpg": "corrupt_image",
    "error_no_end_marker.jpg": "corrupt_image",
    "error_truncated_progressive.jpg": "corrupt_image",
    "error_header_only.jpg": "corrupt_image",
    "error_truncated.png": "corrupt_image",
    "error_truncated.gif": "corrupt_image",
    "error_truncated.webp": "corrupt_image",
    "error_truncated.bmp": "corrupt_image",
    "error_truncated.tiff": "corrupt_image",
    "error_empty.jpg": "corrupt_image",
    "error_text.jpg": "unsupported_format",
    "error_bmp_like_text.bmp": "unsupported_format",
    "error_truncated.avif": "corrupt_image",
    "error_jpeg2000.jpg": "unsupported_format",
    "error_bomb.png": "too_many_pixels",
    "error_bomb.jpg": "too_many_pixels",
}
# Broken on purpose, for the demo.
BROKEN_PHOTOS = {"not-an-image.jpg", "truncated.jpg"}
# Pillow reads JPEG 2000; we do not.
PILLOW_READS = {"error_jpeg2000.jpg"}

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
EVERY = {
    "vit": {"image_processor_type": "ViTImageProcessor"},
    "clip": {"image_processor_type": "CLIPImageProcessor"},
}
SOME = {
    "blip": {"image_processor_type": "BlipImageProcessor"},
    "deit": {"image_processor_type": "DeiTImageProcessor"},
    "siglip": {"image_processor_type": "SiglipImageProcessor"},
    "bit": {"image_processor_type": "BitImageProcessor"},
    "pvt": {"image_processor_type": "PvtImageProcessor"},
    "llava": {"image_processor_type": "LlavaImageProcessor"},
    "vit_old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 64, "resample": 2, "image_mean": MEAN, "image_std": STD},
    "clip_old": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 48, "crop_size": 48, "resample": 3},
    "nearest": {"image_processor_type": "ViTImageProcessor", "size": {"height": 77, "width": 61}, "resample": 0},
    "lanczos": {"image_processor_type": "BlipImageProcessor", "size": {"height": 101, "width": 57}, "resample": 1},
    "box": {"image_processor_type": "ViTImageProcessor", "size": {"height": 30, "width": 400}, "resample": 4},
    "hamming": {"image_processor_type": "ViTImageProcessor", "size": {"height": 33, "width": 29}, "resample": 5},
    "same_height": {"image_processor_type": "ViTImageProcessor", "size": {"height": 120, "width": 50}, "resample": 3},
    "same_width": {"image_processor_type": "ViTImageProcessor", "size": {"height": 50, "width": 160}, "resample": 3},
    "shortest_odd": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 91}, "do_center_crop": False},
    "shortest_ignores_longest": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 50, "longest_edge": 60}, "do_center_crop": False,
    },
    "crop_larger": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "crop_size": {"height": 63, "width": 90},
    },
    "crop_wider": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 44}, "crop_size": {"height": 31, "width": 301},
    },
    "crop_only": {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 65},
    "rescale_only": {"image_processor_type": "ViTImageProcessor", "size": {"height": 20, "width": 31}, "do_normalize": False},
    "normalize_only": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 20, "width": 31}, "do_rescale": False,
        "image_mean": [127.5, 120.0, 111.1], "image_std": [58.0, 57.1, 57.3],
    },
    "neither": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 20, "width": 31}, "do_rescale": False, "do_normalize": False,
    },
    "odd_factor": {"image_processor_type": "ViTImageProcessor", "size": [21, 34], "rescale_factor": 0.00784313725490196, "image_mean": 0.9},
}
SOME_FILES = ["photo.jpg", "photo_420_odd.jpg", "thin.jpg", "rgb8.png", "gray_alpha.png", "orientation_6.jpg"]
# Small sizes, so that fixtures and photographs are large beside them.
SCALED = {
    "exact": {"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 7}},
    "high": {"image_processor_type": "BlipImageProcessor", "size": {"height": 13, "width": 4}},
    "half": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 100, "width": 110}},
    "clip": {"image_processor_type": "CLIPImageProcessor", "size": 24, "crop_size": 24},
    "crop_only": {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 20},
    "tiles": {"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 60}, "max_image_size": {"longest_edge": 20}},
}


def upright(path, halved=None):
    """The image, drafted towards twice the size that `halved` of the full upright image's size gives."""
    image = Image.open(io.BytesIO(path.read_bytes()))
    turned = ImageOps.exif_transpose(image).size != image.size
    if halved and (size := halved(image.size[::-1] if turned else image.size)):
        # Read again: turning has loaded the image.
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.draft("RGB", tuple(2 * side for side in (size[::-1] if turned else size)))
    return ImageOps.exif_transpose(image).convert("RGB")


def resized(config, run):
    """What gives the width and height to which `run` first resizes an image of a width and height, or None."""
    def of(size):
        if not run.do_resize:
            return None
        if config["image_processor_type"].startswith("SmolVLM"):
            blank = np.zeros((size[1], size[0], 3), np.uint8)
            return idefics3.get_resize_output_image_size(blank, run.size["longest_edge"], "channels_last")[::-1]
        if "height" in run.size:
            return run.size["width"], run.size["height"]
        blank = np.zeros((size[1], size[0], 3), np.uint8)
        return get_resize_output_image_size(blank, run.size["shortest_edge"], False, input_data_format="channels_last")[::-1]
    return of


def processor(config):
    name = config.get("image_processor_type") or config["feature_extractor_type"].replace("FeatureExtractor", "ImageProcessor")
    return getattr(transformers, name).from_dict(dict(config))


def golden(values):
    values = np.ascontiguousarray(values, dtype="<f4")
    flat = values.reshape(-1)
    picks = np.linspace(0, flat.size - 1, 16).astype(int)
    return {
        "shape": list(values.shape),
        "blake3": blake3(values.tobytes()).hexdigest(),
        "samples": [[int(i), float(f"{flat[i]:.9g}")] for i in picks],
    }


decoded, images = {}, {}
for path in sorted(IMAGES.iterdir()):
    if path.name in ERRORS:
        try:
            upright(path)
            assert path.name in PILLOW_READS, f"Pillow reads {path.name}"
        except Exception as error:
            print(f"{path.name}: {type(error).__name__}: {error}")
        continue
    images[path.name] = image = upright(path)
    decoded[path.name] = {"width": image.width, "height": image.height, "blake3": blake3(image.tobytes()).hexdigest()}

photos = {}
for path in sorted(PHOTOS.iterdir()):
    if path.name not in BROKEN_PHOTOS:
        photos[f"sample_data/photos/{path.name}"] = upright(path)
for name, image in photos.items():
    decoded[name] = {"width": image.width, "height": image.height, "blake3": blake3(image.tobytes()).hexdigest()}

tensors = {}
for setting, config in {**EVERY, **SOME}.items():
    run = processor(config)
    files = list(images if setting in EVERY else SOME_FILES) + list(photos if setting in ("vit", "clip", "blip") else [])
    results = {}
    for name in files:
        # Said outright: transformers guesses the layout, wrongly for images 1 or 3 pixels high.
        values = run((images | photos)[name], return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        results[name] = golden(values)
    tensors[setting] = {"config": config, "files": results}

scaled = {}
for setting, config in SCALED.items():
    run = processor(config)
    results = {}
    for name in [*images, *photos]:
        path = PHOTOS.parent.parent / name if name in photos else IMAGES / name
        if not name.endswith(".jpg"):
            continue
        image = upright(path, resized(config, run))
        values = run(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        values = np.ascontiguousarray(values, dtype="<f4")
        results[name] = {
            "size": list(image.size), "pixels": blake3(image.tobytes()).hexdigest(), "tensor": blake3(values.tobytes()).hexdigest()}
    scaled[setting] = {"config": config, "files": results}


def write(name, data):
    # One line per file keeps the diffs readable.
    nested = name in ("tensors.json", "scaled.json")
    lines = json.dumps(data, sort_keys=True, indent=None if nested else 1)
    if nested:
        lines = lines.replace('}, "', '},\n"')
    (OUT / name).write_text(lines + "\n")


write("decoded.json", decoded)
write("errors.json", ERRORS)
write("tensors.json", tensors)
write("scaled.json", scaled)
print(len(decoded), "decoded,", sum(len(t["files"]) for t in tensors.values()), "tensors,",
      sum(len(t["files"]) for t in scaled.values()), "scaled")
