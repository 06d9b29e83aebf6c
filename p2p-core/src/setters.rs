//! The setters of what users write.

/// Defines methods that set one field of a value each and return the value. A type that has them can be
/// `#[non_exhaustive]`, so that a new field breaks nobody who writes one.
///
/// Before the type of a field may stand `each` (the field is a collection, and takes what yields its items), `some` (the
/// field is an `Option`), or both.
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    (@one $setter:ident $field:ident some each $item:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $setter(mut self, $field: impl IntoIterator<Item = $item>) -> Self {
            self.$field = Some($field.into_iter().collect());
            self
        }
    };
    (@one $setter:ident $field:ident each $item:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $setter(mut self, $field: impl IntoIterator<Item = $item>) -> Self {
            self.$field = $field.into_iter().collect();
            self
        }
    };
    (@one $setter:ident $field:ident some $type:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $setter(mut self, $field: impl Into<$type>) -> Self {
            self.$field = Some($field.into());
            self
        }
    };
    (@one $setter:ident $field:ident $type:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $setter(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
    };
    ($of:ty { $($setter:ident($field:ident: $($type:tt)+);)+ }) => {
        impl $of {
            $($crate::setters!(@one $setter $field $($type)+);)+
        }
    };
}
