//! The sources of a crate as a tree of modules, and the items that each file names in others.
//!
//! Code for tests is left out: `#[cfg(test)]` items and the files they name. Comments and strings say nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A piece of code and the line it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// One file of a crate.
#[derive(Debug)]
pub(crate) struct Module {
    /// The path below `src/`, for people.
    pub(crate) file: String,
    /// The names from the crate's root to this module; empty for the root.
    pub(crate) path: Vec<String>,
    /// The code, without that of tests.
    pub(crate) code: Vec<Token>,
    /// The names that `use` brings in, and the paths they come from.
    imports: BTreeMap<String, Vec<String>>,
    /// The types, functions, constants and macros it defines.
    items: Vec<Token>,
    /// The types among them.
    pub(crate) types: Vec<Token>,
}

/// A name that one module takes from another.
#[derive(Debug)]
pub(crate) struct Use {
    /// The number of the module that uses.
    pub(crate) from: usize,
    /// The line it stands on.
    pub(crate) line: usize,
    /// The path as it is written, from `crate`.
    pub(crate) written: String,
    /// The number of the module in which it is defined.
    pub(crate) to: usize,
}

/// All files of a crate but those of its tests.
#[derive(Debug)]
pub(crate) struct Crate {
    pub(crate) modules: Vec<Module>,
    by_path: BTreeMap<Vec<String>, usize>,
}

impl Crate {
    /// Reads the crate whose root is this file.
    pub(crate) fn read(root: &Path) -> Self {
        let mut all = Self { modules: Vec::new(), by_path: BTreeMap::new() };
        let folder = root.parent().expect("a folder").to_path_buf();
        all.add(root.to_path_buf(), &folder, &folder, Vec::new());
        all
    }

    fn add(&mut self, file: PathBuf, children: &Path, base: &Path, path: Vec<String>) {
        let text = fs::read_to_string(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let code = without_tests(&tokens(&text.replace("feature = \"sim\"", "sim_only")));
        let mods = declared(&code);
        let number = self.modules.len();
        let mut module = Module {
            file: file.strip_prefix(base).expect("below src").display().to_string(),
            path: path.clone(),
            imports: BTreeMap::new(),
            items: Vec::new(),
            types: Vec::new(),
            code,
        };
        module.find_items();
        module.find_imports();
        self.modules.push(module);
        self.by_path.insert(path.clone(), number);
        for name in mods {
            let (flat, nested) = (children.join(format!("{name}.rs")), children.join(&name).join("mod.rs"));
            let file = if flat.exists() { flat } else { nested };
            let mut path = path.clone();
            path.push(name.clone());
            self.add(file, &children.join(name), base, path);
        }
    }

    /// Returns every name that one module takes from another one.
    pub(crate) fn uses(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        for (from, module) in self.modules.iter().enumerate() {
            for (path, line) in module.paths() {
                let to = self.resolve(&path, 0);
                if to != from {
                    uses.push(Use { from, line, written: format!("crate::{}", path.join("::")), to });
                }
            }
        }
        uses
    }

    /// Returns the module in which the item at this path is defined, through re-exports.
    fn resolve(&self, path: &[String], depth: usize) -> usize {
        let mut length = path.len();
        while !self.by_path.contains_key(&path[..length]) {
            length -= 1;
        }
        let number = self.by_path[&path[..length]];
        let module = &self.modules[number];
        let Some(item) = path.get(length).filter(|_| depth < 8) else { return number };
        match module.imports.get(item) {
            Some(target) if !module.items.iter().any(|own| own.text == *item) => {
                self.resolve(target, depth + 1)
            }
            _ if item.chars().all(|letter| letter.is_lowercase() || letter == '_') && length == 0 => {
                // A macro is named from the root, wherever it is defined.
                let defines = |module: &Module| module.items.iter().any(|own| own.text == *item);
                self.modules.iter().position(defines).unwrap_or(number)
            }
            _ => number,
        }
    }
}

impl Module {
    /// Returns the paths below `crate` that the code names, with their lines.
    fn paths(&self) -> Vec<(Vec<String>, usize)> {
        let mut found = Vec::new();
        let mut index = 0;
        while index < self.code.len() {
            let is_start = ["crate", "super", "self"].contains(&self.code[index].text.as_str())
                && self.code.get(index + 1).is_some_and(|next| next.text == "::")
                && (index == 0 || self.code[index - 1].text != "::");
            if !is_start {
                index += 1;
                continue;
            }
            let mut tree = Vec::new();
            index = self.tree(index, Vec::new(), &mut tree);
            found.extend(tree.into_iter().map(|(path, _, line)| (path, line)));
        }
        found
    }

    /// Reads a path and all that branches from it in braces: path, the name it gets here, line. Returns the index of
    /// what follows.
    fn tree(
        &self,
        mut index: usize,
        mut path: Vec<String>,
        found: &mut Vec<(Vec<String>, String, usize)>,
    ) -> usize {
        let text = |index: usize| self.code.get(index).map_or("", |token| token.text.as_str());
        let line = self.code.get(index).map_or(0, |token| token.line);
        loop {
            match text(index) {
                "crate" => path.clear(),
                "self" if path.is_empty() => path.clone_from(&self.path),
                "self" => {}
                "super" => {
                    if path.is_empty() {
                        path.clone_from(&self.path);
                    }
                    path.pop();
                }
                "{" => {
                    index += 1;
                    while !matches!(text(index), "}" | "") {
                        let next = self.tree(index, path.clone(), found);
                        index = next.max(index + 1);
                        if text(index) == "," {
                            index += 1;
                        }
                    }
                    return index + 1;
                }
                name => path.push(name.to_owned()),
            }
            if text(index + 1) != "::" {
                break;
            }
            index += 2;
            // Generic arguments end the path.
            if text(index) == "<" {
                break;
            }
        }
        let last = path.last().cloned().unwrap_or_default();
        let name = if text(index + 1) == "as" { text(index + 2).to_owned() } else { last };
        let next = if text(index + 1) == "as" { index + 3 } else { index + 1 };
        found.push((path, name, line));
        next
    }

    fn find_imports(&mut self) {
        let mut found = Vec::new();
        for index in 0..self.code.len() {
            let is_use = self.code[index].text == "use";
            let Some(next) = self.code.get(index + 1).filter(|_| is_use) else { continue };
            let is_child = !["crate", "super", "self"].contains(&next.text.as_str());
            // `use child::Item` and, of other crates, what no module is called.
            let path = if is_child { self.path.clone() } else { Vec::new() };
            self.tree(index + 1, path, &mut found);
        }
        self.imports = found.into_iter().map(|(path, name, _)| (name, path)).collect();
    }

    fn find_items(&mut self) {
        const TYPES: [&str; 4] = ["struct", "enum", "trait", "union"];
        const ITEMS: [&str; 5] = ["fn", "const", "static", "type", "macro_rules"];
        let mut depth = 0_i32;
        for index in 0..self.code.len() {
            match self.code[index].text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                word if depth == 0 && (TYPES.contains(&word) || ITEMS.contains(&word)) => {
                    let is_macro = word == "macro_rules";
                    let name = self.code.get(index + if is_macro { 2 } else { 1 }).cloned();
                    if let Some(name) = name.filter(|name| is_name(&name.text)) {
                        if TYPES.contains(&word) || word == "type" {
                            self.types.push(name.clone());
                        }
                        self.items.push(name);
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    text.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
}

/// Returns the names of the modules in files of their own.
fn declared(code: &[Token]) -> Vec<String> {
    code.windows(3)
        .filter(|three| three[0].text == "mod" && three[2].text == ";")
        .map(|three| three[1].text.clone())
        .collect()
}

/// Takes out each item that stands behind `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[cfg(doc)]` or behind the feature
/// `sim`, which is for tests as well; save the room `sim` itself.
fn without_tests(code: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut index = 0;
    while index < code.len() {
        let begins = |with: &[&str]| {
            let all = code[index..].iter().map(|token| token.text.as_str());
            all.take(with.len()).eq(with.iter().copied())
        };
        let for_tests: [&[&str]; 4] = [&["test"], &["doc"], &["all", "(", "test"], &["sim_only", ")"]];
        let is_test = code[index].text == "#"
            && for_tests.iter().any(|cfg| begins(&[&["#", "[", "cfg", "("], *cfg].concat()))
            && !begins(&["#", "[", "cfg", "(", "sim_only", ")", "]", "pub", "mod", "sim"]);
        if !is_test {
            kept.push(code[index].clone());
            index += 1;
            continue;
        }
        let (mut depth, mut was_in_braces) = (0_i32, false);
        while index < code.len() {
            let text = code[index].text.as_str();
            depth += match text {
                "(" | "[" | "{" => 1,
                ")" | "]" | "}" => -1,
                _ => 0,
            };
            was_in_braces |= text == "{";
            index += 1;
            // An attribute ends with a bracket, an item with a brace or a semicolon.
            let is_end = text == ";" || (text == "}" && was_in_braces);
            if depth == 0 && is_end {
                break;
            }
        }
    }
    kept
}

/// Splits Rust into words and signs. `::` is one sign, every other sign is one letter.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let letters: Vec<char> = text.chars().collect();
    let at = |index: usize| letters.get(index).copied().unwrap_or('\0');
    let (mut tokens, mut index, mut line) = (Vec::new(), 0, 1);
    while index < letters.len() {
        let letter = letters[index];
        let start = index;
        match letter {
            '/' if at(index + 1) == '/' => index = find(&letters, index, |rest| rest[0] == '\n'),
            '/' if at(index + 1) == '*' => {
                index = find(&letters, index, |rest| rest.starts_with(&['*', '/'])) + 2
            }
            'r' if at(index + 1) == '"' || (at(index + 1) == '#' && matches!(at(index + 2), '"' | '#')) => {
                let hashes = letters[index + 1..].iter().take_while(|letter| **letter == '#').count();
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                index = find(&letters, index + hashes + 2, |rest| rest.starts_with(&end)) + end.len();
            }
            '"' => {
                index += 1;
                while index < letters.len() && at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                index += 1;
            }
            // A letter in quotes; a lifetime has no second quote.
            '\'' if at(index + 1) == '\\' => index = find(&letters, index + 3, |rest| rest[0] == '\'') + 1,
            '\'' if at(index + 2) == '\'' => index += 3,
            ':' if at(index + 1) == ':' => {
                tokens.push(Token { text: "::".to_owned(), line });
                index += 2;
            }
            letter if letter.is_alphanumeric() || letter == '_' => {
                while at(index).is_alphanumeric() || at(index) == '_' {
                    index += 1;
                }
                tokens.push(Token { text: letters[start..index].iter().collect(), line });
            }
            letter => {
                if !letter.is_whitespace() {
                    tokens.push(Token { text: letter.to_string(), line });
                }
                index += 1;
            }
        }
        line += letters[start..index.min(letters.len())].iter().filter(|letter| **letter == '\n').count();
    }
    tokens
}

fn find(letters: &[char], from: usize, is_end: impl Fn(&[char]) -> bool) -> usize {
    (from..letters.len()).find(|index| is_end(&letters[*index..])).unwrap_or(letters.len())
}
