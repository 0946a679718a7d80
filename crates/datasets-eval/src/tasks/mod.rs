//! Tasks with a prompt form of their own, one file each. Reading their files is in `readers`.

pub mod glue;
