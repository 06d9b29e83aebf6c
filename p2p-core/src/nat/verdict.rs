//! Values with their confidence and their origin.

use std::fmt;

/// The origin of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// The value was seen.
    Measured,
    /// The value follows from something else that was seen: the other transport or the other axis.
    Inferred,
    /// Nothing was seen that speaks for or against the value. It is the case that promises least.
    Assumed,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Inferred => "inferred",
            Self::Assumed => "assumed",
        })
    }
}

/// A value, its confidence, and its origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known<T> {
    /// The value.
    pub value: T,
    /// The probability that the value is right, 0.0 … 1.0. It is never quite 1, because servers lie and networks
    /// change.
    pub confidence: f64,
    /// The origin of the value.
    pub how: How,
}

/// The highest confidence of any value.
const MOST: f64 = 0.999;

impl<T> Known<T> {
    /// Makes a value that was seen.
    pub fn measured(value: T, confidence: f64) -> Self {
        Self::new(value, confidence, How::Measured)
    }

    /// Makes a value that follows from others.
    pub fn inferred(value: T, confidence: f64) -> Self {
        Self::new(value, confidence, How::Inferred)
    }

    /// Makes a value that nothing speaks against.
    pub fn assumed(value: T, confidence: f64) -> Self {
        Self::new(value, confidence, How::Assumed)
    }

    fn new(value: T, confidence: f64, how: How) -> Self {
        let confidence = if confidence.is_finite() { confidence.clamp(0.0, MOST) } else { 0.0 };
        Self { value, confidence, how }
    }

    /// Makes another value that holds when this one does and something else of that confidence.
    pub fn and<U>(&self, value: U, confidence: f64, how: How) -> Known<U> {
        Known::new(value, self.confidence * confidence, self.how.max(how))
    }
}

impl<T: fmt::Display> fmt::Display for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {:.0} %)", self.value, self.how, (self.confidence * 100.0).floor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_stays_below_certainty() {
        assert_eq!(Known::measured(1, 7.0).confidence, MOST);
        assert_eq!(Known::measured(1, f64::NAN).confidence, 0.0);
        let both = Known::assumed(1, 0.5).and("x", 0.5, How::Measured);
        assert_eq!((both.confidence, both.how), (0.25, How::Assumed));
        assert_eq!(Known::measured("equal", 0.999).to_string(), "equal (measured, 99 %)");
    }
}
