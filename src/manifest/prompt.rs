//! Prompts that differ from row to row. In: `generation.prompt` with Jinja expressions over the manifest's columns, such as
//! `A photo of {{ title }}`. Out: one prompt for each row. A null prints nothing and counts as false.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use arrow::error::ArrowError;
use minijinja::{Environment, Value};

use super::text::strings;
use crate::support::jinja;

/// A template with the columns that it reads.
#[derive(Debug)]
pub struct PromptTemplate {
    environment: Environment<'static>,
    /// Names and indexes in the manifest's schema.
    pub(super) columns: Vec<(String, usize)>,
}

/// The columns of one batch that a template reads, in its order.
#[derive(Debug, Clone)]
pub(super) struct PromptValues(Vec<TemplateValues>);

#[derive(Debug, Clone)]
enum TemplateValues {
    Text(StringArray),
    Whole(arrow::array::Int64Array),
    Large(arrow::array::UInt64Array),
    Number(arrow::array::Float64Array),
    Truth(arrow::array::BooleanArray),
}

const NAME: &str = "generation.prompt";

impl PromptTemplate {
    /// Compiles `template`; `column` finds a column by its name.
    pub(super) fn new<E>(
        template: &str,
        column: impl Fn(&str) -> Result<usize, E>,
        broken: impl Fn(String) -> E,
    ) -> Result<Self, E> {
        jinja::check_length(template).map_err(&broken)?;
        let mut environment = jinja::environment();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.set_formatter(
            |out, state, value| {
                if value.is_none() { Ok(()) } else { jinja::write(out, state, value) }
            },
        );
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let compiled = jinja::on_large_stack(|| {
            environment.add_template_owned(NAME, template.to_owned())?;
            let names: BTreeSet<String> =
                environment.get_template(NAME)?.undeclared_variables(false).into_iter().collect();
            Ok(names)
        });
        let names = compiled
            .map_err(|error| broken(error.to_string()))?
            .map_err(|error: minijinja::Error| broken(jinja::explain(&error)))?;
        let columns =
            names.into_iter().map(|name| column(&name).map(|index| (name, index))).collect::<Result<_, _>>()?;
        Ok(Self { environment, columns })
    }

    /// The prompt of row `index`, or why there is none.
    pub(super) fn render(&self, values: &PromptValues, index: usize) -> Result<String, String> {
        let named = self.columns.iter().zip(&values.0).map(|((name, _), values)| (name.as_str(), values.get(index)));
        let context: BTreeMap<&str, Value> = named.collect();
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(context));
        rendered.map_err(|error| jinja::explain(&error))
    }
}

impl PromptValues {
    pub(super) fn new(columns: impl Iterator<Item = Result<ArrayRef, ArrowError>>) -> Result<Self, ArrowError> {
        columns.map(|column| TemplateValues::new(&column?)).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn slice(&self, first: usize, length: usize) -> Self {
        let slice = |values: &TemplateValues| match values {
            TemplateValues::Text(values) => TemplateValues::Text(values.slice(first, length)),
            TemplateValues::Whole(values) => TemplateValues::Whole(values.slice(first, length)),
            TemplateValues::Large(values) => TemplateValues::Large(values.slice(first, length)),
            TemplateValues::Number(values) => TemplateValues::Number(values.slice(first, length)),
            TemplateValues::Truth(values) => TemplateValues::Truth(values.slice(first, length)),
        };
        Self(self.0.iter().map(slice).collect())
    }
}

impl TemplateValues {
    fn new(column: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(match column.data_type() {
            DataType::Boolean => Self::Truth(column.as_boolean().clone()),
            DataType::UInt64 => Self::Large(column.as_primitive::<UInt64Type>().clone()),
            kind if kind.is_integer() => {
                Self::Whole(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            kind if kind.is_floating() => {
                Self::Number(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            _ => Self::Text(strings(column)?),
        })
    }

    fn get(&self, index: usize) -> Value {
        let null = || Value::from(());
        match self {
            Self::Text(values) if values.is_valid(index) => values.value(index).into(),
            Self::Whole(values) if values.is_valid(index) => values.value(index).into(),
            Self::Large(values) if values.is_valid(index) => values.value(index).into(),
            Self::Number(values) if values.is_valid(index) => values.value(index).into(),
            Self::Truth(values) if values.is_valid(index) => values.value(index).into(),
            _ => null(),
        }
    }
}
