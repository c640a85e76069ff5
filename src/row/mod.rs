//! One row between the rooms: its [`error`], if it failed, and its [`signature`], which says whether its content changed since an
//! earlier run. Plain values; nothing is read or written here.

pub mod error;
pub mod signature;
