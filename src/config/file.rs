//! The layer of `herald.toml`.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};
use super::schema::{Catalogue, Key};
use super::sources::{Assignment, Layer, SourceFile, nearest};
use super::value::{Kind, Written};

/// A text that is no TOML at all breaks at every line; the first few say enough.
const SYNTAX_ERRORS_SHOWN: usize = 3;

pub(crate) fn read<'k>(catalogue: &'k Catalogue, file: &SourceFile) -> Layer<'k> {
    let mut reader = Reader { catalogue, file, layer: Layer::default() };
    let (document, errors) = DeTable::parse_recoverable(&file.text);
    if errors.is_empty() {
        for (name, value) in document.get_ref() {
            reader.area(name, value);
        }
    }
    for error in errors.iter().take(SYNTAX_ERRORS_SHOWN) {
        let start = error.span().map_or(0, |span| span.start);
        reader.problem(&file.path, format!("is not TOML: {}", error.message()), start);
    }
    reader.layer.problems.sort_by_key(|problem| line_of(&problem.origin));
    reader.layer
}

fn line_of(origin: &Origin) -> usize {
    match origin {
        Origin::File { line, .. } => *line,
        Origin::Default | Origin::Nowhere | Origin::Environment(_) | Origin::Flag(_) => 0,
    }
}

struct Reader<'k, 'f> {
    catalogue: &'k Catalogue,
    file: &'f SourceFile,
    layer: Layer<'k>,
}

type Name<'t> = Spanned<std::borrow::Cow<'t, str>>;
type Entry<'t> = Spanned<DeValue<'t>>;

impl<'k> Reader<'k, '_> {
    fn area(&mut self, name: &Name<'_>, value: &Entry<'_>) {
        let area = name.get_ref().as_ref();
        if !self.catalogue.has_area(area) {
            let areas = self.catalogue.areas.iter().map(|area| format!("[{}]", area.name));
            let keys = self.catalogue.keys().map(|key| key.path.clone());
            let origin = self.origin(name.span().start);
            match value.get_ref() {
                DeValue::Table(_) => {
                    self.layer.unknown(&format!("[{area}]"), nearest(&format!("[{area}]"), areas), origin);
                }
                _ => self.layer.unknown(area, nearest(area, keys), origin),
            }
            return;
        }
        let DeValue::Table(table) = value.get_ref() else {
            let what = format!("{} is not a table", written(value.get_ref()).shown());
            self.problem(area, what, name.span().start);
            return;
        };
        for (name, value) in table {
            self.key(area, name, value);
        }
    }

    fn key(&mut self, area: &str, name: &Name<'_>, value: &Entry<'_>) {
        let path = format!("{area}.{}", name.get_ref());
        let start = name.span().start;
        let found = self.catalogue.keys().find(|key| key.path == path);
        match (found, value.get_ref()) {
            (None, _) => {
                let keys = self.catalogue.keys().map(|key| key.path.clone());
                let origin = self.origin(start);
                self.layer.unknown(&path, nearest(&path, keys), origin);
            }
            (Some(key), DeValue::Table(_)) if key.kind == Kind::Options => {
                self.options(key, "", value);
            }
            (Some(key), value) => self.assign(key, None, value, start),
        }
    }

    /// `"sasl.password" = …` and the unquoted `sasl.password = …`, which TOML nests, are the same option.
    fn options(&mut self, key: &'k Key, prefix: &str, value: &Entry<'_>) {
        let DeValue::Table(table) = value.get_ref() else {
            return;
        };
        for (name, value) in table {
            let option = format!("{prefix}{}", name.get_ref());
            if let DeValue::Table(_) = value.get_ref() {
                self.options(key, &format!("{option}."), value);
            } else {
                self.assign(key, Some(option), value.get_ref(), name.span().start);
            }
        }
    }

    fn assign(&mut self, key: &'k Key, option: Option<String>, value: &DeValue<'_>, start: usize) {
        self.layer.assignments.push(Assignment { key, option, written: written(value), origin: self.origin(start) });
    }

    fn problem(&mut self, subject: &str, what: String, start: usize) {
        self.layer.problems.push(Problem {
            subject: subject.to_owned(),
            what,
            origin: self.origin(start),
            against: None,
            allowed: "areas as [area], keys as key = value".to_owned(),
        });
    }

    fn origin(&self, start: usize) -> Origin {
        let before = self.file.text.as_bytes().iter().take(start);
        Origin::File { path: self.file.path.clone(), line: before.filter(|byte| **byte == b'\n').count() + 1 }
    }
}

fn written(value: &DeValue<'_>) -> Written {
    match value {
        DeValue::String(text) => Written::Quoted(text.as_ref().to_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Written::Other(number.to_string()), Written::Whole),
        DeValue::Boolean(value) => Written::Boolean(*value),
        DeValue::Array(items) => Written::List(items.iter().map(|item| written(item.get_ref())).collect()),
        DeValue::Float(number) => Written::Other(number.to_string()),
        DeValue::Datetime(time) => Written::Other(time.to_string()),
        DeValue::Table(_) => Written::Other("a table".to_owned()),
    }
}
