"""Writes tests/fixtures/models/blip_itm/ and tests/goldens/families/blip_itm.json.

A tiny BLIP for image-text matching with fixed random weights and a tokenizer of BERT's kind, exported by
jobs/export/blip_itm.py, and transformers' embeddings of photographs and texts, and of both together: the probability that
photograph i and text i match, and the state behind it.

    python tests/goldens/families/blip_itm.py       # needs torch, transformers 4.57.6, onnx, onnxruntime, pillow
"""

import torch
from transformers import (BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor,
                          BlipTextConfig, BlipVisionConfig)

import common

SIDE, WIDTH, CONTEXT = 32, 32, 16
# One for each photograph, of different lengths; the last but one is longer than the context.
TEXTS = ["a", "Ba di, ku", "gele ge moru.", "fo  fo", "Lépu mumuta", "so si tito, sasa",
         "kaka te bibe no di mola pa reti so ge lu", "robo, robo"]


def tokenizer():
    pieces = common.word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return BertTokenizerFast(tokenizer_object=pieces, model_max_length=CONTEXT)


def model(fast, seed=1):
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    # Images, texts and the space of both have widths of their own.
    text = BlipTextConfig(**layers, hidden_size=WIDTH, encoder_hidden_size=24, vocab_size=len(fast), pad_token_id=0,
                          max_position_embeddings=CONTEXT)
    vision = BlipVisionConfig(**layers, hidden_size=24, image_size=SIDE, patch_size=8)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=20)
    return common.reinitialise(BlipForImageTextRetrieval(config), seed)


@torch.no_grad()
def main():
    processor = BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer())
    blip = common.export_by_job("blip_itm", model(processor.tokenizer), processor, common.MODELS / "blip_itm")
    rows = [processor(images=picture, text=text, truncation=True, return_tensors="pt")
            for picture, text in zip(common.photos(), TEXTS)]
    unit = torch.nn.functional.normalize
    states, images, texts, matches, fused = [], [], [], [], []
    for row in rows:
        words = {"input_ids": row.input_ids, "attention_mask": row.attention_mask}
        both = blip(**words, pixel_values=row.pixel_values)
        states.append(both.last_hidden_state[0])
        images.append(unit(blip.vision_proj(both.last_hidden_state[:, 0]))[0].tolist())
        texts.append(unit(blip.text_proj(blip.text_encoder(**words).last_hidden_state[:, 0]))[0].tolist())
        cosine = blip(**words, pixel_values=row.pixel_values, use_itm_head=False).itm_score
        assert torch.allclose(cosine, torch.tensor(images[-1]) @ torch.tensor(texts[-1]), atol=1e-6)
        matches.append(both.itm_score.double().softmax(-1)[0, 1].item())
        fused.append(unit(both.question_embeds[:, 0])[0].tolist())
    print("  match", [round(match, 3) for match in matches], "tokens", [row.input_ids.shape[1] for row in rows])
    for kind, embeddings in [("images", images), ("texts", texts), ("pairs", fused)]:
        common.apart(kind, torch.tensor(embeddings))
    common.write("blip_itm", {
        "pixels": common.probes([row.pixel_values[0] for row in rows]),
        "states": {"output": "last_hidden_state"} | common.probes(states),
        "image_embeddings": images, "texts": TEXTS, "text_embeddings": texts, "image_text_match": matches,
        "fused_embeddings": fused})


if __name__ == "__main__":
    main()
