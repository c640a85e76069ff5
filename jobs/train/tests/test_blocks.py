"""Every block's formula against a plain reference: loops over numbers, written from the formula alone."""

import math
import unittest

import numpy as np
import torch
from torch import nn

import captioner as network
from blocks.decoder.recurrent import GruCell, LstmCell, RecurrentDecoder
from blocks.fusion.attention import SingleHead
from blocks.fusion.combine import CombineFusion, Concatenate, Gated
from blocks.image.cnn import Cnn
from blocks.image.efficientnet import ConvSame
from blocks.image.names import CERTAIN, Names, classes_of_names, forgetting, membership
from blocks.image.vit import Vit
from blocks.shared.autoencoder import Autoencoder, mean_squared_error, normalised
from blocks.shared.contrastive import contrast
from blocks.text.words import Words
from data import tokens
from layers import NORM_EPS, Attention, Layer, mask_bias
from tests import support

WIDTH, HEADS, BATCH, QUERIES, KEYS = 12, 3, 2, 4, 5


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    weight, bias = layer.weight.detach().numpy().astype(np.float64), layer.bias
    return x @ weight.T + (0 if bias is None else bias.detach().numpy().astype(np.float64))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(x)


def layer_norm(norm: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + norm.eps) * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """softmax(q k^T / sqrt(d_k)) v, one query at a time, over the keys that the mask keeps."""
    kept = np.flatnonzero(mask)
    return np.stack([softmax(np.array([row @ k[j] / math.sqrt(k.shape[1]) for j in kept])) @ v[kept] for row in q])


def head(number: int, size: int, *parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns of one head of q, k and v."""
    q, k, v = (part[:, number * size : (number + 1) * size] for part in parts)
    return q, k, v


class Formulas(unittest.TestCase):
    def near(self, found: torch.Tensor, expected: np.ndarray, bound: float = 1e-5) -> None:
        self.assertEqual(tuple(found.shape), expected.shape)
        self.assertLess(float(np.abs(found.detach().numpy() - expected).max()), bound)
        self.assertGreater(float(np.abs(expected).max()), 1e-2, "an expectation of zeros shows nothing")

    def setUp(self) -> None:
        torch.manual_seed(4)
        self.x, self.source = numbers(BATCH, QUERIES, WIDTH), numbers(BATCH, KEYS, WIDTH, seed=1)
        self.mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])

    def test_single_head_attention(self) -> None:
        layer = SingleHead(WIDTH)
        found, _ = layer(self.x, self.source, mask_bias(self.mask))
        x, source = self.x.double().numpy(), self.source.double().numpy()
        self.near(found, np.stack([attention(linear(layer.query, x[b]), linear(layer.key, source[b]), linear(layer.value, source[b]),
                                             self.mask[b].numpy()) for b in range(BATCH)]))

    def test_multi_head_attention(self) -> None:
        layer = Attention(WIDTH, HEADS)
        found, _ = layer(self.x, self.source, mask_bias(self.mask))
        x, source, size = self.x.double().numpy(), self.source.double().numpy(), WIDTH // HEADS
        expected = []
        for b in range(BATCH):
            q, k, v = linear(layer.query, x[b]), linear(layer.key, source[b]), linear(layer.value, source[b])
            heads = [attention(*head(h, size, q, k, v), self.mask[b].numpy()) for h in range(HEADS)]
            expected.append(linear(layer.output, np.concatenate(heads, 1)))
        self.near(found, np.stack(expected))

    def test_concatenation(self) -> None:
        layer, text = Concatenate(WIDTH), self.source[:, :1]
        x, t = self.x.double().numpy(), text.double().numpy()
        expected = [[linear(layer.down, gelu(linear(layer.up, np.concatenate([linear(layer.image, token), linear(layer.text, t[b, 0])]))))
                     for token in x[b]] for b in range(BATCH)]
        self.near(layer(self.x, text), np.array(expected))

    def test_gate(self) -> None:
        layer, text = Gated(WIDTH), self.source[:, :1]
        x, t = self.x.double().numpy(), text.double().numpy()
        expected = []
        for b in range(BATCH):
            for token in x[b]:
                g = sigmoid(linear(layer.gate, np.concatenate([token, t[b, 0]])))
                expected.append(g * np.tanh(linear(layer.image, token)) + (1 - g) * np.tanh(linear(layer.text, t[b, 0])))
        self.near(layer(self.x, text), np.array(expected).reshape(BATCH, QUERIES, WIDTH))

    def test_combined_text_is_the_mean_of_null_and_tokens(self) -> None:
        fusion = CombineFusion(support.recipe({"model": {"width": WIDTH, "heads": 3}}), Gated(WIDTH)).eval()
        mean = (fusion.null + (self.source * self.mask[:, :, None]).sum(1)) / (1 + self.mask.sum(1, keepdim=True))
        expected = fusion.norm(self.x + fusion.combine(self.x, mean[:, None]))
        self.near(fusion(self.x, self.source, self.mask)[0], expected.detach().numpy())
        # without a text, what the padding holds has no effect
        nothing = torch.zeros_like(self.mask)
        self.assertTrue(torch.equal(fusion(self.x, self.source, nothing)[0], fusion(self.x, -self.source, nothing)[0]))

    def test_word_embeddings_are_a_mean(self) -> None:
        words = Words(support.recipe({"text": support.WORDS}), 20)
        ids, mask = torch.tensor([[3, 7, 7, 5], [9, 4, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        table = layer_norm(words.norm, words.words.weight.detach().double().numpy())
        expected = np.stack([linear(words.embed, np.mean([table[i] for i in row], 0)) for row in ([3, 7, 7, 5], [9, 4])])
        self.near(words(ids, mask)[1], expected / np.linalg.norm(expected, axis=1, keepdims=True))

    def test_vision_transformer(self) -> None:
        vit = Vit(support.recipe({"image": support.VIT})).eval()
        pixels = numbers(1, 3, 32, 32)
        picture, kernel = pixels[0].double().numpy(), vit.patches.weight.detach().double().numpy().reshape(24, -1)
        patches = [picture[:, r : r + 16, c : c + 16].reshape(-1) for r in (0, 16) for c in (0, 16)]
        z = np.stack(patches) @ kernel.T + vit.patches.bias.detach().numpy() + vit.positions.detach().numpy()
        layer = vit.layers[0]
        y, size = layer_norm(layer.attention_norm, z), 24 // 3
        q, k, v = (linear(part, y) for part in (layer.attention.query, layer.attention.key, layer.attention.value))
        heads = [attention(*head(h, size, q, k, v), np.ones(4)) for h in range(3)]
        z = z + linear(layer.attention.output, np.concatenate(heads, 1))
        z = z + linear(layer.down, gelu(linear(layer.up, layer_norm(layer.norm, z))))
        self.near(vit(pixels)[0][0], linear(vit.project, layer_norm(vit.norm, z)))

    def test_bert_layer_of_encoder_and_decoder(self) -> None:
        def copy(theirs: nn.MultiheadAttention, ours: Attention) -> None:
            parts = (ours.query, ours.key, ours.value)
            theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
            theirs.out_proj.load_state_dict(ours.output.state_dict())

        sizes = {"dim_feedforward": 20, "activation": "gelu", "batch_first": True, "layer_norm_eps": NORM_EPS}
        causal = torch.triu(torch.full((QUERIES, QUERIES), -1e4), 1)
        for cross in (False, True):
            layer = Layer(WIDTH, HEADS, 20, cross=cross).eval()
            kind = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
            reference = kind(WIDTH, HEADS, **sizes).eval()
            norms = [layer.attention_norm, *([layer.cross_norm] if cross else []), layer.norm]
            with torch.no_grad():
                for i, norm in enumerate(norms):
                    norm.weight.copy_(numbers(WIDTH, seed=i))
                    norm.bias.copy_(numbers(WIDTH, seed=i + 9))
                    getattr(reference, f"norm{i + 1}").load_state_dict(norm.state_dict())
                copy(reference.self_attn, layer.attention)
                if cross:
                    copy(reference.multihead_attn, layer.cross)
                reference.linear1.load_state_dict(layer.up.state_dict())
                reference.linear2.load_state_dict(layer.down.state_dict())
            expected = reference(self.x, self.source, tgt_mask=causal) if cross else reference(self.x, src_mask=causal)
            found, _ = layer(self.x, causal, self.source if cross else None)
            self.near(found, expected.detach().numpy())

    def test_convolutions_pad_as_tensorflow_does(self) -> None:
        layer, picture = ConvSame(2, 3, 3, stride=2), numbers(1, 2, 6, 6)
        weight, padded = layer.weight.detach().double().numpy(), np.zeros((2, 7, 7))
        padded[:, :6, :6] = picture[0].double().numpy()  # the odd pixel goes to the right and bottom
        expected = np.zeros((1, 3, 3, 3))
        for channel, row, column in np.ndindex(3, 3, 3):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected[0, channel, row, column] = (window * weight[channel]).sum() + layer.bias[channel].item()
        self.near(layer(picture), expected)

    def test_cnn_tokens_are_the_cells_of_the_grid(self) -> None:
        cnn = Cnn(support.recipe({"image": support.CNN})).eval()
        pixels = numbers(1, 3, 64, 64)
        features = cnn.tail(cnn.stem(pixels))[0].detach().double().numpy()
        self.assertEqual(features.shape, (1280, 2, 2))
        cells = np.stack([features[:, row, column] for row in (0, 1) for column in (0, 1)])
        tokens_, embeds = cnn(pixels)
        self.near(tokens_[0], layer_norm(cnn.norm, linear(cnn.project, cells)) + cnn.positions.detach().numpy(), 1e-4)
        vector = linear(cnn.embed, cells.mean(0))
        self.near(embeds[0], vector / np.linalg.norm(vector))

    def test_names_that_are_certain_add_their_vectors(self) -> None:
        layer = Names(6, 5)
        with torch.no_grad():
            layer.head.weight.zero_()
            layer.head.bias.zero_()
            layer.vectors.copy_(numbers(*layer.vectors.shape))
            layer.head.bias[[281, 284, 504]] = torch.tensor([9.0, 9.5, 8.6])  # tabby, Siamese cat; coffee mug
        scores, shift = layer(numbers(2, 6))
        p = np.exp(scores[0].detach().double().numpy())
        p /= p.sum()
        columns = list(classes_of_names())
        self.assertTrue(p[281] + p[284] > CERTAIN > p[504] > 0.1)
        self.near(shift[0, 0], p[281:286].sum() * layer.vectors[columns.index("cat")].detach().numpy())

    def test_no_class_has_two_names(self) -> None:
        self.assertLessEqual(membership().sum(1).max().item(), 1)
        columns = list(classes_of_names())
        self.assertEqual([columns[i] for i in membership()[[207, 281, 340]].argmax(1)], ["dog", "cat", "zebra"])

    def test_forgetting_is_the_divergence_from_the_answers_before_training(self) -> None:
        cnn = Cnn(support.recipe({"image": {"encoder": "cnn", "size": 64, "names": True}})).eval()
        cnn.load_pretrained()
        stem = cnn.frozen(numbers(2, 3, 64, 64))
        self.assertLess(cnn.with_losses(stem)[2]["forgetting"].item(), 1e-5)
        scores, before = numbers(3, 7), numbers(3, 7, seed=1)
        p, q = (np.exp(x.double().numpy()) / np.exp(x.double().numpy()).sum(1, keepdims=True) for x in (before, scores))
        self.assertAlmostEqual(forgetting(scores, before).item(), (p * np.log(p / q)).sum(1).mean(), places=5)
        with torch.no_grad():
            cnn.tail.conv.weight.mul_(1.5)
        self.assertGreater(cnn.with_losses(stem)[2]["forgetting"].item(), 1e-3)

    def test_lstm_cell(self) -> None:
        cell = LstmCell(5, 4)
        x, h, c = numbers(BATCH, 5), numbers(BATCH, 4, seed=1), numbers(BATCH, 4, seed=2)
        reference = nn.LSTMCell(5, 4)
        with torch.no_grad():  # PyTorch has the same gates in the same order, with two biases
            reference.weight_ih.copy_(cell.gates.weight[:, :5])
            reference.weight_hh.copy_(cell.gates.weight[:, 5:])
            reference.bias_ih.copy_(cell.gates.bias)
            reference.bias_hh.zero_()
        for found, expected in zip(cell(x, [h, c]), reference(x, (h, c))):
            self.near(found, expected.detach().numpy())

    def test_gru_cell(self) -> None:
        cell, width = GruCell(5, 4), 4
        x, h = numbers(BATCH, 5), numbers(BATCH, 4, seed=1)
        reference = nn.GRUCell(5, 4)
        with torch.no_grad():
            reference.weight_ih.copy_(torch.cat([cell.gates.weight[:, :5], cell.new_input.weight]))
            reference.weight_hh.copy_(torch.cat([cell.gates.weight[:, 5:], cell.new_hidden.weight]))
            reference.bias_ih.copy_(torch.cat([cell.gates.bias, cell.new_input.bias]))
            reference.bias_hh.copy_(torch.cat([torch.zeros(2 * width), cell.new_hidden.bias]))
        self.near(cell(x, [h])[0], reference(x, h).detach().numpy())

    def test_attention_of_recurrent_decoders(self) -> None:
        for cell in (LstmCell, GruCell):
            decoder = RecurrentDecoder(support.recipe({"decoder": {"kind": "lstm"}}), 20, cell).eval()
            a, word = numbers(1, 3, 32).double().numpy()[0], decoder.words.weight[7].detach().double().numpy()
            state = [np.tanh(linear(part, a.mean(0))) for part in decoder.start]
            h = state[0]
            e = np.array([linear(decoder.score, np.tanh(linear(decoder.keys, row) + linear(decoder.query, h)))[0] for row in a])
            z = sigmoid(linear(decoder.gate, h)) * (softmax(e) @ a)
            entered = torch.from_numpy(np.concatenate([word, z])).float()[None]
            h = decoder.cell(entered, [torch.from_numpy(part).float()[None] for part in state])[0][0].detach().double().numpy()
            y = np.tanh(linear(decoder.from_word, word) + linear(decoder.from_hidden, h) + linear(decoder.from_image, z))
            expected = decoder.words.weight.detach().numpy() @ y + decoder.bias.detach().numpy()
            logits, present = decoder(torch.tensor([[7]]), torch.from_numpy(a).float()[None], decoder.empty_past(1))
            self.near(logits[0, 0], expected)
            self.near(present[0][0], h)

    def test_contrast(self) -> None:
        left, right, scale = (nn.functional.normalize(numbers(4, 6, seed=s), dim=-1) for s in (0, 1, 2))
        log_scale = torch.tensor(1.3)
        s = (left.double() @ right.double().T).numpy() * math.exp(1.3)
        rows = [-math.log(softmax(s[i])[i]) for i in range(4)] + [-math.log(softmax(s[:, i])[i]) for i in range(4)]
        self.assertAlmostEqual(contrast(left, right, log_scale).item(), sum(rows) / 8, places=5)

    def test_reconstruction(self) -> None:
        x, other = numbers(3, 6), numbers(3, 6, seed=1)
        squares = [sum((a - b) ** 2 for a, b in zip(p, q)) for p, q in zip(x.tolist(), other.tolist())]
        self.assertAlmostEqual(mean_squared_error(x, other).item(), sum(squares) / 3 / 6, places=5)
        coder = Autoencoder(support.recipe({"shared": {"objective": "autoencoder"}}), 10, 7)
        image, text, vectors = numbers(3, 10), numbers(3, 7, seed=1), [numbers(3, 24, seed=s) for s in (2, 3)]
        pairs = [((decoder(z) - normalised(target)) ** 2).mean().item()
                 for z in vectors for decoder, target in ((coder.image, image), (coder.text, text))]
        self.assertAlmostEqual(coder(vectors, image, text).item(), sum(pairs) / 4, places=5)
        image.requires_grad_(True)
        coder(vectors, image, text).backward()
        self.assertIsNone(image.grad, "a target that learns would shrink to be easy")


class Steps(unittest.TestCase):
    def test_steps_give_what_the_whole_sequence_gives(self) -> None:
        vocabulary = tokens.build("captions", [["a red circle on the left of a blue picture"]], 1)
        for kind in ("transformer", "lstm", "gru"):
            wanted = support.recipe({"image": support.VIT, "text": support.WORDS, "decoder": {"kind": kind}})
            model = network.build(wanted, vocabulary).eval()
            memory, ids = numbers(2, 4, 32), torch.tensor([[1, 5, 6, 7], [1, 8, 9, 5], [1, 7, 7, 6], [1, 6, 5, 9]])
            whole, _ = model.decoder(ids, memory)  # two captions of each image
            past, rows = model.decoder.empty_past(4), []
            for step in range(4):
                logits, past = model.decoder(ids[:, step : step + 1], memory.repeat_interleave(2, 0), past)
                rows.append(logits)
            self.assertLess((torch.cat(rows, 1) - whole).abs().max().item(), 1e-5, kind)
            self.assertGreater((whole[0] - whole[2]).abs().max().item(), 1e-3, kind)


if __name__ == "__main__":
    unittest.main()
