//! Words for programs: each way to fail has one, and it never changes.

/// Defines `code` and `CODES` of a type. What is below `nested` has words of its own.
macro_rules! codes {
    ($of:ty { $($pattern:pat => $code:literal),+ $(; nested $($nested:pat => $inner:expr),+)? $(,)? }) => {
        impl $of {
            /// All words that [`code`](Self::code) says, those of a nested reason apart.
            pub const CODES: &'static [&'static str] = &[$($code),+];

            /// Returns a word for programs: it never changes.
            pub fn code(&self) -> &'static str {
                match self {
                    $($pattern => $code,)+
                    $($($nested => $inner,)+)?
                }
            }
        }
    };
}
