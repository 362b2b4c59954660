//! What a platform knows of a migration beside its record: whose VM it was, of which flavour, for which job.

use super::attributes::Attributes;

/// Attributes that migtrace puts on the span `migration` itself.
const RESERVED: [&str; 3] = ["migtrace.", "network.", "error.type"];

/// Attributes of one migration that only its platform knows. They are put on every span `migration` of its trace.
///
/// ```
/// use migtrace::export::otlp::PlatformAttributes;
///
/// # fn example() -> Result<(), migtrace::export::otlp::ReservedName> {
/// let mut attributes = PlatformAttributes::default();
/// attributes.insert("tenant.id", "acme")?.insert("flavour.vcpus", 4)?.insert("evacuation", true)?;
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlatformAttributes(Vec<(String, AttributeValue)>);

/// The value of an attribute.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Yes or no.
    Flag(bool),
}

/// A name that migtrace keeps for itself, or none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "an attribute cannot be called `{0}`: it needs a name, and those that begin with `migtrace.` or `network.`, and `error.type`, \
     are migtrace's own"
)]
pub struct ReservedName(pub String);

impl PlatformAttributes {
    /// Adds an attribute, or gives another value to one that is there.
    ///
    /// # Errors
    /// The name is empty, or migtrace uses it itself.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<AttributeValue>,
    ) -> Result<&mut Self, ReservedName> {
        let (name, value) = (name.into(), value.into());
        if name.is_empty() || RESERVED.iter().any(|reserved| name.starts_with(reserved)) {
            return Err(ReservedName(name));
        }
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
        Ok(self)
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AttributeValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub(super) fn add_to(&self, attributes: &mut Attributes) {
        for (name, value) in &self.0 {
            match value {
                AttributeValue::Text(text) => attributes.text(name, text.as_str()),
                AttributeValue::Integer(number) => attributes.signed(name, *number),
                AttributeValue::Flag(flag) => attributes.flag(name, *flag),
            };
        }
    }
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for AttributeValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}
