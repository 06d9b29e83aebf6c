//! Prints the table of [`p2p_core::nat::meets`]: `cargo run -p p2p-core --example meets >
//! p2p-core/src/nat/meets.md` brings the documentation up to date.

fn main() {
    print!("{}", p2p_core::nat::meets::table());
}
