//! Reading JSON or YAML of any shape into structs without ever failing on a wrong type.
//!
//! What has the wrong type is kept as "found a number here" for `decode` to complain about. Only
//! broken syntax is an error. It must never know what a field means. Tests: below.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What a type does with each thing that may stand in its place.
///
/// `Default` is what `null` and an absent field mean.
pub(crate) trait Lenient<'de>: Default {
    /// Something else than what is wanted stands there.
    fn refuse(found: &'static str) -> Self;

    /// A string stands there.
    fn text(_: &str) -> Self {
        Self::refuse("a string")
    }

    /// A whole number stands there.
    fn whole(_: i64) -> Self {
        Self::refuse("a number")
    }

    /// A boolean stands there.
    fn flag(_: bool) -> Self {
        Self::refuse("a boolean")
    }

    /// A list stands there; it must be read to its end.
    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::refuse("a list"))
    }

    /// An object stands there; it must be read to its end.
    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::refuse("an object"))
    }
}

/// Reads whatever comes.
pub(crate) fn read<'de, T: Lenient<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(Anything(PhantomData))
}

struct Anything<T>(PhantomData<T>);

impl<'de, T: Lenient<'de>> Visitor<'de> for Anything<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        Ok(T::flag(value))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        Ok(T::whole(value))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        Ok(i64::try_from(value).map_or_else(|_| T::refuse("a huge number"), T::whole))
    }
    fn visit_i128<E: Error>(self, _: i128) -> Result<T, E> {
        Ok(T::refuse("a huge number"))
    }
    fn visit_u128<E: Error>(self, _: u128) -> Result<T, E> {
        Ok(T::refuse("a huge number"))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<T, E> {
        Ok(T::refuse("a fraction"))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        Ok(T::text(value))
    }
    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<T, E> {
        Ok(T::refuse("binary data"))
    }
    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_none<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<T, D::Error> {
        read(inner)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<T, D::Error> {
        read(inner)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::list(list)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::object(object)
    }
}

/// A string, whole number or boolean, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// Not there, or null.
    #[default]
    Absent,
    /// A string.
    Text(Box<str>),
    /// A whole number.
    Whole(i64),
    /// A boolean.
    Flag(bool),
    /// Anything else, in words.
    Other(&'static str),
}

impl<'de> Lenient<'de> for Scalar {
    fn refuse(found: &'static str) -> Self {
        Scalar::Other(found)
    }
    fn text(text: &str) -> Self {
        Scalar::Text(text.into())
    }
    fn whole(number: i64) -> Self {
        Scalar::Whole(number)
    }
    fn flag(flag: bool) -> Self {
        Scalar::Flag(flag)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read(from)
    }
}

/// Whether a key is there at all, with whatever value. For labels that count by presence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present(pub(crate) bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Present(true))
    }
}

/// A list, or what stood in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T> {
    /// The entries; empty if absent.
    pub(crate) items: Vec<T>,
    /// What stood there instead of a list.
    pub(crate) wrong: Option<&'static str>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List { items: Vec::new(), wrong: None }
    }
}

impl<'de, T: Deserialize<'de>> Lenient<'de> for List<T> {
    fn refuse(found: &'static str) -> Self {
        List { items: Vec::new(), wrong: Some(found) }
    }
    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(List { items, wrong: None })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read(from)
    }
}

/// The key of a map entry; empty if it is no string (YAML allows any).
#[derive(Default)]
pub(crate) struct Key<'de>(pub(crate) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(key)))
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<Key<'de>, E> {
        Ok(Key::default())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Key<'de>, E> {
        Ok(Key::default())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<Key<'de>, E> {
        Ok(Key::default())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Key<'de>, E> {
        Ok(Key::default())
    }
    fn visit_unit<E: Error>(self) -> Result<Key<'de>, E> {
        Ok(Key::default())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Key<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Key::default())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Key<'de>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Key::default())
    }
}

/// Declares a struct of fields by their JSON keys. Each field's type must be one that reads
/// leniently; a key given twice counts as its last value, as the API server has it. What stood in
/// the object's place, if not an object, is in `wrong`.
macro_rules! lenient_object {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)*
            #[allow(dead_code, reason = "not every place where it stands is worth a complaint")]
            pub(crate) wrong: Option<&'static str>,
        }

        impl<'de> $crate::api::lenient::Lenient<'de> for $name {
            fn refuse(found: &'static str) -> Self {
                $name { wrong: Some(found), ..$name::default() }
            }
            fn object<A: serde::de::MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
                let mut read = $name::default();
                while let Some(key) = object.next_key::<$crate::api::lenient::Key<'de>>()? {
                    match key.0.as_ref() {
                        $($key => read.$field = object.next_value()?,)*
                        _ => {
                            object.next_value::<serde::de::IgnoredAny>()?;
                        }
                    }
                }
                Ok(read)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::api::lenient::read(from)
            }
        }
    };
}
pub(crate) use lenient_object;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    lenient_object! {
        /// For the tests.
        Thing { name: Scalar = "name", list: List<Scalar> = "list", mark: Present = "mark", }
    }

    fn thing(json: &str) -> Thing {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn wrong_types_are_told_and_the_rest_is_read() {
        let read = thing(
            r#"{"name": {"a": [1]}, "list": ["a", 1, [2], 1.5, null, 18446744073709551615], "mark": null}"#,
        );
        assert_eq!(read.name, Scalar::Other("an object"));
        let want = [
            Scalar::Text("a".into()),
            Scalar::Whole(1),
            Scalar::Other("a list"),
            Scalar::Other("a fraction"),
            Scalar::Absent,
            Scalar::Other("a huge number"),
        ];
        assert_eq!(read.list.items, want);
        assert!(read.mark.0);
    }

    #[test]
    fn anything_may_stand_in_an_objects_place() {
        assert_eq!(thing("[1,{\"x\":2}]").wrong, Some("a list"));
        assert_eq!(thing("7").wrong, Some("a number"));
        assert_eq!(thing("null").wrong, None);
        assert_eq!(thing(r#"{"list": {"a": 1}}"#).list.wrong, Some("an object"));
    }

    #[test]
    fn the_last_of_a_repeated_key_counts() {
        assert_eq!(thing(r#"{"name": "a", "name": "b"}"#).name, Scalar::Text("b".into()));
    }

    #[test]
    fn yaml_keys_of_any_kind_are_stepped_over() {
        let yaml = "1: a\ntrue: b\nname: c\n? [x, y]\n: d\n";
        let read: Thing = serde_saphyr::from_str(yaml).unwrap();
        assert_eq!(read.name, Scalar::Text("c".into()));
    }
}
