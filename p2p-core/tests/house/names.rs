//! A type name is defined once in the workspace.
