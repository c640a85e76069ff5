//! The files of a model directory. Each is put into a copy of a small model directory, which is then opened as by `nightcap model
//! inspect` and by a job.

use std::cell::OnceCell;

use tempfile::TempDir;

use super::{MEMORY, Outcome, copy, repo, scratch, shape, short};
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::engine::{GenerationOverrides, GenerationSettings};
use crate::model::{ModelDirectory, ModelError, inspect};
use crate::onnx::edit::elide_copies::elide_copies;
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::{GraphHeader, GraphSource};
use crate::preprocess::{DecodeLimits, ImageProcessor, Preprocessor, RgbImage};

pub(super) const PREPROCESSOR: &[&str] = &[
    "\"do_resize\": ",
    "\"size\": ",
    "\"crop_size\": ",
    "\"do_center_crop\": true",
    "\"shortest_edge\": ",
    "\"longest_edge\": ",
    "\"height\": ",
    "\"width\": ",
    "\"resample\": ",
    "\"rescale_factor\": ",
    "\"image_mean\": ",
    "\"image_std\": ",
    "\"CLIPImageProcessor\"",
    "\"ViTImageProcessor\"",
    "\"Idefics3ImageProcessor\"",
    "\"SmolVLMImageProcessor\"",
    "\"BlipImageProcessor\"",
    "\"max_image_size\": ",
    "\"do_image_splitting\": true",
    "\"image_processor\": ",
    "\"DonutImageProcessor\"",
    "\"ConvNextImageProcessor\"",
    "\"PoolFormerImageProcessor\"",
    "\"PerceiverImageProcessor\"",
    "\"EfficientNetImageProcessorFast\"",
    "\"LlavaImageProcessor\"",
    "\"do_pad\": true",
    "\"pad_size\": ",
    "\"crop_pct\": ",
    "\"do_align_long_axis\": true",
    "\"pretrained_cfg\": ",
    "\"input_size\": [3, ",
    "\"crop_mode\": ",
    "\"preprocess_cfg\": ",
    "\"resize_mode\": ",
];
pub(super) const GENERATION: &[&str] = &[
    "\"max_length\": ",
    "\"max_new_tokens\": ",
    "\"min_length\": ",
    "\"num_beams\": ",
    "\"do_sample\": true",
    "\"top_k\": ",
    "\"top_p\": ",
    "\"temperature\": ",
    "\"eos_token_id\": ",
    "\"bos_token_id\": ",
    "\"pad_token_id\": ",
    "\"bad_words_ids\": ",
    "\"suppress_tokens\": ",
    "\"forced_eos_token_id\": ",
    "\"early_stopping\": ",
    "\"repetition_penalty\": ",
    "\"stop_strings\": ",
    "\"decoder_start_token_id\": ",
    "\"no_repeat_ngram_size\": ",
    "\"forced_bos_token_id\": ",
    "\"length_penalty\": ",
];
pub(super) const CONFIG: &[&str] = &[
    "\"max_position_embeddings\": ",
    "\"n_positions\": ",
    "\"image_token_id\": ",
    "\"image_token_index\": ",
    "\"text_config\": {",
    "\"vision_config\": {",
    "\"decoder\": {",
    "\"patch_size\": ",
    "\"model_type\": ",
    "\"florence2\"",
    "\"projection_dim\": ",
    "\"vocab_size\": ",
    "\"max_length\": ",
    "\"eos_token_id\": ",
];
pub(super) const TOKENIZER: &[&str] = &[
    "\"model_max_length\": ",
    "\"bos_token\": ",
    "\"eos_token\": ",
    "\"pad_token\": ",
    "\"content\": ",
    "\"added_tokens\": ",
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aa\"}",
    "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(a*)*b\"}, \"content\": \"x\"}",
    "\"normalizer\": ",
    "\"pre_tokenizer\": ",
    "\"decoder\": ",
    "\"post_processor\": ",
    "\"truncation\": ",
    "\"padding\": ",
    "\"vocab\": ",
    "\"merges\": ",
    "\"Fixed\": ",
    "\"max_length\": ",
    "\"stride\": ",
    "\"type\": \"Sequence\"",
    "\"type\": \"BPE\"",
    "\"type\": \"WordPiece\"",
    "\"type\": \"Unigram\"",
    "\"type\": \"WordLevel\"",
    "\"type\": \"ByteLevel\"",
    "\"type\": \"Metaspace\"",
    "\"type\": \"Strip\"",
    "\"type\": \"Fuse\"",
    "\"type\": \"CTC\"",
    "\"type\": \"TemplateProcessing\"",
    "\"unk_token\": ",
    "\"unk_id\": ",
    "\"pad_to_multiple_of\": ",
    "\"direction\": \"Left\"",
    "\"id\": ",
    "\"start\": ",
    "\"stop\": ",
    "\"prepend\": ",
    "\"chunk_length\": ",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"}",
    "\"chat_template\": ",
    "\"dropout\": ",
    "\"max_input_chars_per_word\": ",
];
pub(super) const BINDINGS: &[&str] = &[
    "[graphs]\n",
    "[bind]\n",
    "vision = ",
    "text = ",
    "fusion = ",
    "prefill = ",
    "decoder = ",
    "encoder = ",
    "\"../../etc/passwd\"",
    "\"/dev/zero\"",
    "\"vision_model.onnx\"",
    "\"fusion.",
    "\"tokens\"",
    "\"prompt\"",
    "\"vision.",
    "\"zeros\"",
    "\"ones\"",
];
pub(super) const ONNX: &[&str] = &[
    "location",
    "offset",
    "length",
    "weights.data",
    "/dev/zero",
    "../weights.data",
    "Concat",
    "Shape",
    "Gather",
    "Slice",
    "Constant",
    "If",
    "Loop",
    "MatMul",
    "Identity",
    "pixel_values",
    "image_embeds",
    "Scan",
    "SequenceMap",
];

/// Texts that are tokenized: a caption, none, what normalizers change, what no vocabulary has, and a long one.
const TEXTS: [&str; 6] =
    ["a dog on the beach", "", " \u{130}\u{fb01} A\u{300}\t\n", "\u{1f415}\u{0}\u{ffff}", "<image><pad></s>", LONG];
const LONG: &str = match std::str::from_utf8(&[b'a'; 4096]) {
    Ok(text) => text,
    Err(_) => "",
};

/// `preprocessor_config.json`, and what it makes of images.
pub(super) fn preprocessor(input: &[u8]) -> Outcome {
    let Ok(value) = serde_json::from_slice(input) else { return Outcome::ok() };
    let found = ImageProcessor::from_config(&value);
    let mut outcome = Outcome::of(&found);
    let Ok(model) = found else { return outcome };
    short(&model.describe());
    let limits = DecodeLimits { max_image_pixels: 1 << 20 };
    let most = model.most_values();
    let size = model.output_size();
    let preprocessor = Preprocessor { model, embedding: None, jpeg_scaling: false };
    for (width, height) in [(1, 1), (7, 5), (64, 48), (700, 1)] {
        let pixels = (0..width * height * 3).map(|at| at as u8).collect();
        let image = RgbImage { width, height, pixels };
        let found = preprocessor.process_within(limits, &image);
        if let Ok(found) = &found {
            let values = found.model.data.len();
            let expected = found.model.tiles() * 3 * found.model.height as usize * found.model.width as usize;
            assert_eq!(values, expected);
            assert!(values <= most.unwrap_or(usize::MAX), "{values} values, at most {most:?} were announced");
            assert!(size.is_none_or(|size| size == (found.model.height, found.model.width)));
        }
        outcome.signature += &Outcome::of(&found).signature;
    }
    // Images may become 16 million pixels of 12 bytes, and the resized image is held beside them.
    outcome.memory = MEMORY + (1 << 24) * 18;
    outcome
}

/// `generation_config.json`.
pub(super) fn generation(input: &[u8]) -> Outcome {
    thread_local!(static MODEL: OnceCell<TempDir> = const { OnceCell::new() });
    MODEL.with(|model| with_file(model, "tiny_model", "generation_config.json", input, None))
}

/// `config.json`.
pub(super) fn config(input: &[u8]) -> Outcome {
    thread_local!(static MODEL: OnceCell<TempDir> = const { OnceCell::new() });
    MODEL.with(|model| with_file(model, "models/llava", "config.json", input, Some("What is it?")))
}

/// `tokenizer_config.json`.
pub(super) fn tokenizer_config(input: &[u8]) -> Outcome {
    thread_local!(static MODEL: OnceCell<TempDir> = const { OnceCell::new() });
    MODEL.with(|model| with_file(model, "models/llava", "tokenizer_config.json", input, Some("What is it?")))
}

/// `chat_template.jinja`.
pub(super) fn chat_template(input: &[u8]) -> Outcome {
    thread_local!(static MODEL: OnceCell<TempDir> = const { OnceCell::new() });
    MODEL.with(|model| with_file(model, "models/llava", "chat_template.jinja", input, Some("What is it?")))
}

/// `nightcap.toml`.
pub(super) fn bindings(input: &[u8]) -> Outcome {
    thread_local!(static MODEL: OnceCell<TempDir> = const { OnceCell::new() });
    MODEL.with(|model| with_file(model, "tiny_model", "nightcap.toml", input, None))
}

/// `tokenizer.json`, and what it makes of texts and tokens.
pub(super) fn tokenizer(input: &[u8]) -> Outcome {
    thread_local!(static MODEL: OnceCell<TempDir> = const { OnceCell::new() });
    MODEL.with(|model| {
        let mut outcome = with_file(model, "models/llava", "tokenizer.json", input, Some("What is it?"));
        let folder = model.get_or_init(scratch).path().to_owned();
        let Ok(directory) = ModelDirectory::open(&folder, None) else { return outcome };
        let loaded = TextTokenizer::load(&directory);
        outcome.signature += &Outcome::of(&loaded).signature;
        let Ok(Some(tokenizer)) = loaded else { return outcome };
        let mut rows = Vec::new();
        for text in TEXTS {
            let found = tokenizer.encode(text);
            outcome.signature += &Outcome::of(&found).signature;
            rows.extend(found.ok().flatten());
            let Ok(ids) = tokenizer.encode_whole(text, true) else { continue };
            for decoded in [tokenizer.decode(&ids), tokenizer.decode_all(&ids)] {
                outcome.signature += &Outcome::of(&decoded).signature;
            }
        }
        let batch = tokenizer.pad(&rows);
        assert_eq!(batch.input_ids.len(), batch.rows * batch.length);
        let _ = tokenizer.decode(&[0, 1, 2, 3, i64::from(u32::MAX), -1]);
        outcome
    })
}

/// A graph, by its messages alone: what it declares, and an edit of it.
pub(super) fn onnx(input: &[u8]) -> Outcome {
    thread_local!(static FOLDER: TempDir = scratch());
    FOLDER.with(|folder| {
        let path = folder.path().join("model.onnx");
        std::fs::write(folder.path().join("weights.data"), [0; 64]).expect("a file of weights");
        std::fs::write(&path, input).expect("a graph");
        let source = GraphSource::file(&path);
        let header = GraphHeader::read(&source);
        let mut outcome = Outcome::of(&header);
        let Ok(header) = header else { return outcome };
        for location in &header.external_files {
            outcome.signature += &Outcome::of(&source.external_file(location)).signature;
        }
        let whole = std::iter::once(source.clone());
        let parts = header.outputs.first().map(|port| GraphSource::subgraph(&path, vec![port.name.clone()]));
        for source in whole.chain(parts) {
            let file = OnnxFile::read(&source);
            outcome.signature += &Outcome::of(&file.as_ref().map(|_| ())).signature;
            let Ok(file) = file else { continue };
            let (graph, _) = elide_copies(file.graph.clone());
            assert_eq!(graph.output, file.graph.output, "an edit keeps the outputs");
            let encoded = file.encode(graph);
            outcome.signature += &Outcome::of(&encoded.as_ref().map(|_| ())).signature;
            let Ok(encoded) = encoded else { continue };
            assert!(encoded.bytes.len() <= 4 * input.len() + 4096, "{} bytes of {}", encoded.bytes.len(), input.len());
        }
        outcome
    })
}

/// Opens a copy of the model directory `name` in which `file` has the bytes `input`.
fn with_file(model: &OnceCell<TempDir>, name: &str, file: &str, input: &[u8], prompt: Option<&str>) -> Outcome {
    let folder = model.get_or_init(|| {
        let folder = scratch();
        copy(&repo("tests/fixtures").join(name), folder.path());
        folder
    });
    std::fs::write(folder.path().join(file), input).expect("a file of the model");
    let description = inspect(folder.path(), None);
    let mut signature = String::new();
    for problem in &description.problems {
        signature += &shape(&short(problem));
    }
    let opened = ModelDirectory::open(folder.path(), None);
    assert!(opened.is_ok() || !description.problems.is_empty(), "what cannot be opened has a problem");
    let Ok(directory) = opened else { return Outcome { signature, memory: MEMORY } };
    let overrides = GenerationOverrides { prompt: prompt.map(str::to_owned), ..GenerationOverrides::default() };
    signature += &match GenerationSettings::resolve(&directory, &overrides) {
        Ok(_) => "ok".to_owned(),
        Err(ModelError::Directory { problems, .. }) => problems.iter().map(|problem| shape(&short(problem))).collect(),
        Err(error) => shape(&short(&error)),
    };
    Outcome { signature, memory: MEMORY }
}
