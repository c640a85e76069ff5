//! Which output of a graph holds its embedding, and how states become one vector. In: the graph's outputs, `nightcap.toml`, the files of
//! sentence-transformers, the family. Out: an [`EmbeddingPort`] with the reason, or a problem that says what to write. Nothing is guessed: what is
//! taken is what the library takes that publishes models of that kind.

use super::config::ConfigFiles;
use super::error::Problem;
use super::graph_file::GraphFile;
use super::overrides::{OutputOverride, Overrides, did_you_mean};
use super::pooling::Pooling;
use super::role::Role;
use crate::onnx::Port;

/// The largest width of an embedding.
const MOST_WIDTH: usize = 1 << 16;

/// The output of a graph that holds its embedding, or the states that it is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingPort {
    /// Its name.
    pub output: String,
    /// The width of the embedding.
    pub width: usize,
    /// How its values become one vector.
    pub pooling: Pooling,
    /// Why this output, and why this pooling.
    pub why: String,
}

/// What decides which output is taken.
pub(super) struct Context<'a> {
    pub(super) overrides: &'a Overrides,
    pub(super) config: &'a ConfigFiles,
    /// Whether other graphs take outputs of this one, so that it need not have an embedding.
    pub(super) is_used: bool,
    /// Whether there is a graph for images and one for texts.
    pub(super) both_towers: bool,
}

/// An output and a pooling, with the reason.
type Choice<'a> = (&'a Port, Pooling, String);

/// Vision models whose `pooler_output` is what they are trained or used for: the library computes it from trained weights, or without
/// any. `ViT`, `DeiT` and BERT are not among them: many checkpoints of these have a pooler of random weights.
const POOLED: [&str; 28] = [
    "beit",
    "bit",
    "clip_vision_model",
    "convnext",
    "convnextv2",
    "data2vec-vision",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_convnext",
    "dinov3_vit",
    "donut-swin",
    "efficientnet",
    "focalnet",
    "hiera",
    "levit",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "mobilevitv2",
    "poolformer",
    "pvt",
    "pvt_v2",
    "regnet",
    "resnet",
    "siglip_vision_model",
    "swin",
    "swinv2",
    "timm_wrapper",
];
/// Those whose class token, behind the last normalization, is the embedding.
const CLASS_TOKEN: [&str; 5] = ["dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "nomic_bert"];
/// Those whose embedding is the mean of all places, `[batch, width, height, width]`, or of all tokens.
const MEAN: [&str; 11] = [
    "donut-swin",
    "efficientnet",
    "focalnet",
    "ijepa",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "regnet",
    "resnet",
    "swin",
    "swinv2",
];

const POOLER: &str = "pooler_output";
const STATES: [&str; 3] = ["last_hidden_state", "token_embeddings", "hidden_states"];

/// Chooses the output of `role`'s graph that holds its embedding; `None` if it has none and needs none.
pub(super) fn choose(role: Role, graph: &GraphFile, context: &Context<'_>) -> Result<Option<EmbeddingPort>, Problem> {
    let outputs = &graph.header.outputs;
    let named = context.overrides.outputs.get(&role);
    if role == Role::Text
        && named.is_none()
        && let Some(why) = context.config.sentence_modules().and_then(|modules| modules.changes_texts.as_ref())
    {
        let hint = format!("to embed texts as they are: [outputs] in {}, with text.embedding", Overrides::FILE);
        return Err(
            Problem::new(&graph.file, format!("expected texts that are embedded as they are: {why}")).with_hint(hint)
        );
    }
    let choice = match named.filter(|named| named.embedding.is_some() || named.pooling.is_some()) {
        Some(named) => Some(explicit(role, graph, named)?),
        None => by_name(role, graph)?.or_else(|| by_short_name(role, outputs)).or_else(|| siglip(role, graph, context)),
    };
    let choice = match choice {
        Some(choice) => choice,
        None if context.is_used => return Ok(None),
        None => match by_rule(role, graph, context)? {
            Some(choice) => choice,
            None => return Err(unknown(role, graph, context)),
        },
    };
    let (port, pooling, why) = choice;
    let declared = match (pooling, port.rank()) {
        (Pooling::Cls | Pooling::Mean | Pooling::Eos, Some(3)) => port.fixed(2),
        _ => port.fixed(1),
    };
    let of_config = match pooling {
        Pooling::Vector if port.name != POOLER => context.config.projection_dim(),
        _ => context.config.hidden_size(role),
    };
    match declared.or(named.and_then(|named| named.width)).or(of_config) {
        Some(width) if !(1..=MOST_WIDTH).contains(&width) => {
            let what = format!("output {:?}: expected a width from 1 to {MOST_WIDTH}, found {width}", port.name);
            Err(Problem::new(&graph.file, what))
        }
        Some(width) => Ok(Some(EmbeddingPort { output: port.name.clone(), width, pooling, why })),
        None => {
            let what = format!("output {:?} declares no width: {}", port.name, port.describe());
            Err(Problem::new(&graph.file, what).with_hint(format!(
                "write its width in {}: [outputs] \"{role}.width\" = 512, for instance; or as projection_dim in config.json",
                Overrides::FILE
            )))
        }
    }
}

/// The output of a graph for images and texts that holds the embedding of `role`, if one has a name that says so.
pub(super) fn joint_output<'a>(role: Role, outputs: &'a [Port], overrides: &'a Overrides) -> Option<&'a str> {
    let named = overrides.outputs.get(&role).and_then(|named| named.embedding.as_deref());
    let names = role.embedding_outputs().iter().chain(short_names(role)).copied();
    named.or_else(|| names.into_iter().find(|name| outputs.iter().any(|port| port.name == *name)))
}

/// Whether an embedding is the one that is taken without any choice.
pub(super) fn is_usual(role: Role, port: &EmbeddingPort) -> bool {
    port.pooling == Pooling::Vector
        && (role.embedding_outputs().contains(&port.output.as_str()) || port.output == POOLER)
}

/// What `[outputs]` of `nightcap.toml` says.
fn explicit<'a>(role: Role, graph: &'a GraphFile, named: &OutputOverride) -> Result<Choice<'a>, Problem> {
    let header = &graph.header;
    let problem = |what: String| Problem::new(Overrides::FILE, what);
    let port = match &named.embedding {
        Some(name) => header.output(name).ok_or_else(|| {
            let known: Vec<_> = header.outputs.iter().map(|port| &port.name).collect();
            problem(format!("outputs.\"{role}.embedding\" = {name:?}: {} has no such output", graph.file))
                .with_hint(did_you_mean(name, &known))
        })?,
        None => states(&header.outputs).ok_or_else(|| {
            problem(format!(
                "outputs.\"{role}.pooling\": {} has no output with states; found {}",
                graph.file,
                listed(graph)
            ))
            .with_hint(format!("name the output: \"{role}.embedding\" = \"OUTPUT\""))
        })?,
    };
    let fits = |ranks: &[usize]| port.dtype.is_float() && port.rank().is_none_or(|rank| ranks.contains(&rank));
    let pooling = match named.pooling {
        Some(pooling) => pooling,
        None if is_vector(port) || port.rank().is_none() => Pooling::Vector,
        None => {
            let what =
                format!("outputs.\"{role}.embedding\" = {:?} is {}, which is no vector", port.name, port.describe());
            return Err(problem(what).with_hint(format!(
                "say how its states become one: \"{role}.pooling\" = \"cls\" (the first), \"mean\", or \"eos\" (the last of a text)"
            )));
        }
    };
    let (ranks, shape): (&[usize], _) = match pooling {
        Pooling::Vector => (&[2, 4], "[batch, width]"),
        Pooling::Mean => (&[3, 4], "[batch, states, width] or [batch, width, rows, columns]"),
        Pooling::Cls | Pooling::Eos => (&[3], "[batch, states, width]"),
    };
    if !fits(ranks) || (pooling == Pooling::Vector && port.rank() == Some(4) && !is_vector(port)) {
        let what = format!(
            "pooling {:?} of output {:?}: expected float {shape}, found {}",
            pooling.name(),
            port.name,
            port.describe()
        );
        return Err(problem(what));
    }
    Ok((port, pooling, format!("{} says so", Overrides::FILE)))
}

/// An output with the usual name of an embedding.
fn by_name(role: Role, graph: &GraphFile) -> Result<Option<Choice<'_>>, Problem> {
    let port = role.embedding_outputs().iter().find_map(|name| graph.header.output(name));
    match port {
        None => Ok(None),
        Some(port) if is_vector(port) || (port.dtype.is_float() && port.rank().is_none()) => {
            Ok(Some((port, Pooling::Vector, "its name is the usual one".to_owned())))
        }
        Some(port) => Err(Problem::new(
            &graph.file,
            format!("expected output {:?} as float [batch, width], found {}", port.name, port.describe()),
        )),
    }
}

/// Other names that embeddings have: those of sentence-transformers, jina-clip, Immich.
fn short_names(role: Role) -> &'static [&'static str] {
    match role {
        Role::Vision => &["image_embeddings", "l2norm_image_embeddings", "image_embedding", "embedding", "embeddings"],
        Role::Text => &[
            "sentence_embedding",
            "text_embeddings",
            "l2norm_text_embeddings",
            "text_embedding",
            "embedding",
            "embeddings",
        ],
        _ => &[],
    }
}

fn by_short_name(role: Role, outputs: &[Port]) -> Option<Choice<'_>> {
    let find = |name: &&str| outputs.iter().find(|port| port.name == **name && is_vector(port));
    let port = short_names(role).iter().find_map(find)?;
    Some((port, Pooling::Vector, "its name says that it is an embedding".to_owned()))
}

/// `pooler_output` of a `SigLIP`, also if other graphs take its states.
fn siglip<'a>(role: Role, graph: &'a GraphFile, context: &Context<'_>) -> Option<Choice<'a>> {
    let kind = context.config.tower_type(role).filter(|kind| kind.starts_with("siglip"))?;
    let port = graph.header.output(POOLER).filter(|port| port.rank().is_none() || is_vector(port))?;
    (matches!(role, Role::Vision | Role::Text) && port.dtype.is_float())
        .then(|| (port, Pooling::Vector, format!("in {kind}, it is the embedding")))
}

/// What the library takes that publishes models of this kind.
fn by_rule<'a>(role: Role, graph: &'a GraphFile, context: &Context<'_>) -> Result<Option<Choice<'a>>, Problem> {
    let outputs = graph.header.outputs.as_slice();
    if role == Role::Text
        && let Some(modules) = context.config.sentence_modules()
        && let Some(port) = states(outputs)
    {
        if let Some(why) = &modules.unsupported {
            return Err(Problem::new(
                &graph.file,
                format!("its states do not become the model's embedding here: {why}"),
            )
            .with_hint(
                "export it with sentence-transformers (backend=\"onnx\"), whose graph has an output sentence_embedding",
            ));
        }
        if let Some((pooling, file)) = &modules.pooling {
            return Ok(Some((port, *pooling, format!("{file} says so"))));
        }
    }
    let kind = context.config.tower_type(role).unwrap_or_default();
    if role == Role::Vision {
        // CLIP compares projections, and not what its towers give
        let comparable = kind != "clip_vision_model" || !context.both_towers;
        if let Some(port) =
            graph.header.output(POOLER).filter(|port| is_vector(port) && comparable && POOLED.contains(&kind))
        {
            return Ok(Some((port, Pooling::Vector, format!("in {kind}, it is the embedding"))));
        }
        if let Some(port) = states(outputs) {
            let pooling = [(&CLASS_TOKEN[..], Pooling::Cls, port.rank() == Some(3)), (&MEAN[..], Pooling::Mean, true)];
            if let Some((_, pooling, _)) = pooling.into_iter().find(|(kinds, _, fits)| *fits && kinds.contains(&kind)) {
                return Ok(Some((port, pooling, format!("that is the embedding of {kind}"))));
            }
        }
    }
    let says_otherwise = |port: &Port| {
        let is_score = ["logits", "prob", "score"].iter().any(|part| port.name.to_lowercase().contains(part));
        is_score || (is_classifier(context.config) && context.config.classes() == port.fixed(1))
    };
    match outputs {
        [port] if is_vector(port) && matches!(role, Role::Vision | Role::Text) && !says_otherwise(port) => {
            Ok(Some((port, Pooling::Vector, "it is the only output".to_owned())))
        }
        _ => Ok(None),
    }
}

/// Why there is no embedding, and what to write.
fn unknown(role: Role, graph: &GraphFile, context: &Context<'_>) -> Problem {
    let outputs = listed(graph);
    let file = Overrides::FILE;
    let known: Vec<_> = role.embedding_outputs().iter().map(|name| format!("{name:?}")).collect();
    let what = match known.first() {
        Some(name) => format!("no graph uses its outputs ({outputs}), and there is no {name} among them"),
        None => return Problem::new(&graph.file, format!("no graph uses its outputs ({outputs})")),
    };
    let of = match context.config.tower_type(role) {
        Some(kind) => format!("which one is the embedding of {kind}"),
        None => "which one is the embedding".to_owned(),
    };
    let what = format!("{what}: {of} does not follow from the files");
    let vector = graph.header.outputs.iter().find(|port| is_vector(port));
    let lines: Vec<_> = [
        vector.map(|port| format!("[outputs] \"{role}.embedding\" = {:?}", port.name)),
        states(&graph.header.outputs).map(|port| {
            let others = if role == Role::Text { "\"mean\", \"eos\"" } else { "\"mean\"" };
            format!("[outputs] \"{role}.embedding\" = {:?} with \"{role}.pooling\" = \"cls\" (or {others})", port.name)
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    let classes = is_classifier(context.config)
        .then_some("its classes are no embedding; export it with --task feature-extraction");
    let hint = match (lines.as_slice(), classes) {
        (_, Some(classes)) => classes.to_owned(),
        ([], None) => "export it with the task feature-extraction".to_owned(),
        (lines, None) => format!("write in {file}, as the model's card says: {}", lines.join("; or ")),
    };
    Problem::new(&graph.file, what).with_hint(hint)
}

fn is_classifier(config: &ConfigFiles) -> bool {
    config.architectures().iter().any(|name| name.ends_with("Classification"))
}

/// Whether a port is float `[batch, width]`, or that with axes of size 1 behind it.
fn is_vector(port: &Port) -> bool {
    let rank = port.rank();
    port.dtype.is_float()
        && (rank == Some(2) || (rank == Some(4) && port.fixed(2) == Some(1) && port.fixed(3) == Some(1)))
}

/// The output with states: `last_hidden_state`, or the only one with three or four axes.
fn states(outputs: &[Port]) -> Option<&Port> {
    let are_states = |port: &&Port| {
        let has_rows = port.dtype.is_float() && matches!(port.rank(), Some(3 | 4)) && !is_vector(port);
        has_rows && !port.name.contains("logits") && !port.name.starts_with("present")
    };
    let named = STATES.iter().find_map(|name| outputs.iter().find(|port| port.name == *name)).filter(are_states);
    let mut all = outputs.iter().filter(are_states);
    named.or_else(|| all.next().filter(|_| all.next().is_none()))
}

fn listed(graph: &GraphFile) -> String {
    graph.header.outputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ")
}
