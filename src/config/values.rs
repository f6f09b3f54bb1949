//! How each kind of value stands in the configuration file: strings, numbers, durations, lists.
//! They know JSON's values (which is what the file's YAML means) and nothing of fields.
//! Tests: `config::tests`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::forms::{self, GoDuration};
use super::wire::{FlushFrequency, Quantity, Value, VmoduleItem};

impl Value for String {
    fn read(value: &Json) -> Result<Self, String> {
        match value {
            Json::String(text) => Ok(text.clone()),
            Json::Number(_) | Json::Bool(_) => Err("a string; put it in quotes".into()),
            _ => Err("a string".into()),
        }
    }
    fn write(&self) -> Json {
        Json::String(self.clone())
    }
}

impl Value for bool {
    fn read(value: &Json) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "true or false, without quotes".into())
    }
    fn write(&self) -> Json {
        Json::Bool(*self)
    }
}

impl Value for i32 {
    fn read(value: &Json) -> Result<Self, String> {
        let number = value.as_i64().and_then(|n| i32::try_from(n).ok());
        number.ok_or_else(|| "a whole number from -2147483648 to 2147483647, without quotes".into())
    }
    fn write(&self) -> Json {
        Json::from(*self)
    }
}

impl Value for u32 {
    fn read(value: &Json) -> Result<Self, String> {
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| "a whole number from 0 to 4294967295, without quotes".into())
    }
    fn write(&self) -> Json {
        Json::from(*self)
    }
}

impl Value for f32 {
    fn read(value: &Json) -> Result<Self, String> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the field has 32 bits in Kubernetes too"
        )]
        let number = value.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
        number.ok_or_else(|| "a number such as 5 or 0.5, without quotes".into())
    }
    fn write(&self) -> Json {
        // The shortest text that means this number, not the 64-bit neighbour of it.
        self.to_string().parse::<serde_json::Number>().map_or(Json::Null, Json::Number)
    }
}

impl Value for GoDuration {
    fn read(value: &Json) -> Result<Self, String> {
        let text = value.as_str().ok_or("a duration as a string, such as 30s")?;
        Ok(GoDuration::parse(text)?)
    }
    fn write(&self) -> Json {
        Json::String(self.to_string())
    }
}

impl Value for FlushFrequency {
    fn read(value: &Json) -> Result<Self, String> {
        match value.as_i64() {
            Some(nanoseconds) => Ok(FlushFrequency(GoDuration(nanoseconds))),
            None => GoDuration::read(value)
                .map(FlushFrequency)
                .map_err(|allowed| format!("{allowed}, or a number of nanoseconds")),
        }
    }
    fn write(&self) -> Json {
        Json::from(self.0.0)
    }
}

impl Value for Quantity {
    fn read(value: &Json) -> Result<Self, String> {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => String::new(),
        };
        forms::quantity(&text)?;
        Ok(Quantity(text))
    }
    fn write(&self) -> Json {
        Json::String(self.0.clone())
    }
}

impl Value for VmoduleItem {
    fn read(value: &Json) -> Result<Self, String> {
        let file_pattern = value.get("filePattern").and_then(Json::as_str);
        let verbosity = value.get("verbosity").map(u32::read);
        match (file_pattern, verbosity) {
            (Some(pattern), Some(Ok(verbosity))) => {
                Ok(VmoduleItem { file_pattern: pattern.to_owned(), verbosity })
            }
            _ => Err("a list of {filePattern: NAME, verbosity: NUMBER}".into()),
        }
    }
    fn write(&self) -> Json {
        serde_json::json!({ "filePattern": self.file_pattern, "verbosity": self.verbosity })
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(value: &Json) -> Result<Self, String> {
        let items = value.as_array().ok_or("a list")?;
        items.iter().map(T::read).collect()
    }
    fn write(&self) -> Json {
        Json::Array(self.iter().map(T::write).collect())
    }
}

impl Value for BTreeMap<String, bool> {
    fn read(value: &Json) -> Result<Self, String> {
        let entries = value.as_object().ok_or("a map of names to true or false")?;
        entries.iter().map(|(name, on)| Ok((name.clone(), bool::read(on)?))).collect()
    }
    fn write(&self) -> Json {
        self.iter()
            .map(|(name, on)| (name.clone(), Json::Bool(*on)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}
