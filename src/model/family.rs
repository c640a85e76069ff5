//! Families of models by `model_type` and `architectures` of `config.json`. In: the configuration, and which files there are. Out: why a family
//! cannot run, by its name, and the command that makes the graphs of one that can.

use std::path::Path;

use super::config::ConfigFiles;
use super::error::Problem;

/// Families that cannot run whatever graphs there are: `model_type`, name, and what is missing.
const REFUSED: [(&str, &str, &str); 61] = [
    ("qwen2_vl", "Qwen2-VL", GRIDS),
    ("qwen2_5_vl", "Qwen2.5-VL", GRIDS),
    ("qwen3_vl", "Qwen3-VL", GRIDS),
    ("qwen3_vl_moe", "Qwen3-VL", GRIDS),
    ("qwen2_5_omni", "Qwen2.5-Omni", GRIDS),
    ("qwen3_omni_moe", "Qwen3-Omni", GRIDS),
    ("glm4v", "GLM-4V", GRIDS),
    ("glm4v_moe", "GLM-4V", GRIDS),
    ("gemma3", "Gemma 3", "its prompts and its attention within an image are not supported"),
    ("gemma3n", "Gemma 3n", "its prompts and its attention within an image are not supported"),
    ("colpali", "ColPali", "its many vectors for one image are not supported"),
    ("colqwen2", "ColQwen2", "its many vectors for one image are not supported"),
    ("internvl", "InternVL", TILES),
    ("internvl_chat", "InternVL", TILES),
    ("blip-2", "BLIP-2", "its query tokens between image encoder and language model are not supported"),
    ("blip_2_qformer", "BLIP-2", "its query tokens between image encoder and language model are not supported"),
    ("instructblip", "InstructBLIP", "its query tokens between image encoder and language model are not supported"),
    (
        "instructblipvideo",
        "InstructBLIP-Video",
        "its query tokens between image encoder and language model are not supported",
    ),
    (
        "siglip2",
        "SigLIP 2 NaFlex",
        "its images of varying numbers of patches are not supported; SigLIP 2 of one size has the model_type siglip",
    ),
    ("siglip2_vision_model", "SigLIP 2 NaFlex", "its images of varying numbers of patches are not supported"),
    ("llava_next", "LLaVA-NeXT", TILES),
    ("llava_next_video", "LLaVA-NeXT-Video", TILES),
    ("llava_onevision", "LLaVA-OneVision", TILES),
    (
        "llava_qwen2",
        "FastVLM in the format of its authors",
        "its prompts are made by their code; saved by transformers 5, its model_type is fast_vlm, which can run",
    ),
    ("video_llava", "Video-LLaVA", "videos are not supported"),
    ("moondream1", "Moondream", PROMPTS),
    ("moondream", "Moondream", PROMPTS),
    ("phi3_v", "Phi-3.5-vision", TILES),
    ("phi4_multimodal", "Phi-4-multimodal", TILES),
    ("minicpmv", "MiniCPM-V", TILES),
    ("minicpmo", "MiniCPM-o", TILES),
    ("pixtral", "Pixtral", "its images of varying sizes are not supported"),
    ("mistral3", "Mistral 3", "its images of varying sizes are not supported"),
    ("idefics", "Idefics", "its cross-attention inside the language model is not supported"),
    ("idefics2", "Idefics2", "its resampler and its images of varying sizes are not supported"),
    ("mllama", "Llama 3.2 Vision", "its cross-attention inside the language model is not supported"),
    ("llama4", "Llama 4", TILES),
    ("kosmos-2", "Kosmos-2", "its places of images in prompts are not supported"),
    ("kosmos-2.5", "Kosmos-2.5", "its flattened patches are not supported"),
    ("pix2struct", "Pix2Struct", "its flattened patches are not supported"),
    ("ovis", "Ovis", TILES),
    ("ovis2", "Ovis2", TILES),
    ("multi_modality", "Janus", PROMPTS),
    ("janus", "Janus", PROMPTS),
    ("molmo", "Molmo", TILES),
    ("aria", "Aria", TILES),
    ("fuyu", "Fuyu", "its patches inside the prompt are not supported"),
    ("chameleon", "Chameleon", "its image tokens inside the vocabulary are not supported"),
    ("emu3", "Emu3", "its image tokens inside the vocabulary are not supported"),
    ("deepseek_vl", "DeepSeek-VL", PROMPTS),
    ("deepseek_vl_v2", "DeepSeek-VL2", TILES),
    ("cohere2_vision", "Command A Vision", TILES),
    ("vipllava", "ViP-LLaVA", PROMPTS),
    ("bridgetower", "BridgeTower", "its layers that join both towers are not supported"),
    ("vilt", "ViLT", "its one encoder for image and text is not supported"),
    ("whisper", "Whisper", "it takes audio, and no images"),
    ("wav2vec2", "wav2vec 2.0", "it takes audio, and no images"),
    ("hubert", "HuBERT", "it takes audio, and no images"),
    ("clap", "CLAP", "it takes audio, and no images"),
    ("speecht5", "SpeechT5", "it takes audio, and no images"),
    ("sam", "Segment Anything", "it gives masks, and neither captions nor embeddings"),
];

const GRIDS: &str = "the numbers of patches (image_grid_thw) that its image encoder takes, and its positions in three axes, are not supported";
const TILES: &str = "the way in which it cuts images into tiles is not supported";
const PROMPTS: &str = "the format of its prompts is not supported";

/// What models of a kind give, by the last part of their class in `architectures`.
const TASKS: [(&str, &str); 13] = [
    ("ForObjectDetection", "finds objects"),
    ("ForZeroShotObjectDetection", "finds objects"),
    ("ForSemanticSegmentation", "gives masks"),
    ("ForInstanceSegmentation", "gives masks"),
    ("ForUniversalSegmentation", "gives masks"),
    ("ForImageSegmentation", "gives masks"),
    ("ForDepthEstimation", "gives depths"),
    ("ForCTC", "takes audio"),
    ("ForSpeechSeq2Seq", "takes audio"),
    ("ForAudioClassification", "takes audio"),
    ("ForTokenClassification", "rates words"),
    ("ForQuestionAnswering", "answers questions"),
    ("ForMaskGeneration", "gives masks"),
];

/// Families that can run, and the command that makes their graphs; `DIR` is the directory and `OUT` a new one.
const EXPORTERS: [(&[&str], &str); 9] = [
    (&["vision-encoder-decoder"], "optimum-cli export onnx --model DIR --task image-to-text-with-past OUT"),
    (&["blip"], "python jobs/export/blip.py DIR OUT"),
    (&["git"], "python jobs/export/git_caption.py DIR OUT"),
    (&["florence2"], "python jobs/export/florence2.py DIR OUT"),
    (&["smolvlm", "idefics3"], "python jobs/export/smolvlm.py DIR OUT"),
    (&["llava"], "python jobs/export/llava.py DIR OUT"),
    (&["coca"], "python jobs/export/coca.py DIR OUT"),
    (&["fast_vlm"], "python jobs/export/fastvlm.py DIR OUT"),
    (&["clip", "siglip"], "optimum-cli export onnx --model DIR --task feature-extraction OUT"),
];

/// The problem of a family that cannot run.
pub(super) fn refusal(config: &ConfigFiles) -> Option<Problem> {
    let kind = config.model_type()?;
    if let Some((_, name, why)) = REFUSED.iter().find(|(refused, ..)| *refused == kind) {
        let what = format!("{name} (model_type {kind:?}) cannot run: {why}");
        return Some(Problem::new(ConfigFiles::CONFIG, what).with_hint(format!("families that can: {SUPPORTED}")));
    }
    let architectures = config.architectures();
    let found = architectures
        .iter()
        .find_map(|name| TASKS.iter().find(|(ending, _)| name.ends_with(ending)).map(|task| (name, task.1)));
    let (name, does) = found?;
    let what =
        format!("{name} (model_type {kind:?}) cannot run: it {does}, and writes neither captions nor embeddings");
    Some(Problem::new(ConfigFiles::CONFIG, what).with_hint(format!("families that can: {SUPPORTED}")))
}

const SUPPORTED: &str = "ViT-GPT2, TrOCR, BLIP, GIT, CoCa, Florence-2, SmolVLM, LLaVA, FastVLM, PaliGemma for captions; CLIP, SigLIP, jina-clip, DINOv2, \
                         nomic-embed, ResNet and sentence-transformers for vectors";

/// The problem of a decoder without an image encoder.
pub(super) fn without_images(decoder: &str, config: &ConfigFiles) -> Problem {
    let who = match config.model_type() {
        Some(kind) => format!("{decoder} generates texts (model_type {kind:?})"),
        None => format!("{decoder} generates texts"),
    };
    let what = format!("{who}, but there is no graph that takes images: a language model alone writes no captions");
    Problem::new(".", what)
        .with_hint("add the image encoder (vision_model.onnx, vision_encoder.onnx or encoder_model.onnx) of the model")
}

/// What to do about a directory without graphs that play a role.
pub(super) fn advice(folder: &Path, config: &ConfigFiles) -> Option<String> {
    let snapshots = folder.join("snapshots");
    if let Some(snapshot) = std::fs::read_dir(&snapshots).ok().and_then(|mut inner| inner.next()?.ok()) {
        return Some(format!(
            "this is the cache of a repository; name the folder inside it: {}",
            snapshot.path().display()
        ));
    }
    let kind = config.model_type()?;
    let blip_matches = config.architectures().contains(&"BlipForImageTextRetrieval");
    let known = EXPORTERS.iter().find(|(kinds, _)| kinds.contains(&kind)).map(|(_, command)| *command);
    let command = match known {
        Some(_) if blip_matches => "python jobs/export/blip_itm.py DIR OUT",
        Some(command) => command,
        None => "optimum-cli export onnx --model DIR --task feature-extraction OUT",
    };
    let command = command.replace("DIR", &folder.display().to_string());
    let weights = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
    let weights = weights.into_iter().find(|name| folder.join(name).is_file());
    let holds = weights.map_or(String::new(), |file| format!("{file} holds PyTorch weights of {kind:?}; "));
    Some(format!("{holds}this makes the graphs: {command}"))
}
