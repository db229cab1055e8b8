//! The three forms of a score file, turned into entries that know where they stood.

use crate::scores::{Place, Score, ScoresError};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

/// The entries of a score file in its order, duplicates included; codes are not checked yet.
pub(crate) fn entries(path: &Path, text: &str) -> Result<Vec<(Place, Score)>, ScoresError> {
    // Spreadsheets like to put a byte-order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = |problem: String| ScoresError::Format { path: path.into(), problem };
    match text.trim_start().bytes().next() {
        None => Err(format("it is empty; expected scores as JSON or CSV".into())),
        Some(b'{') => json(text).map_err(|e| format(e.to_string())),
        Some(b'[') => Err(format(
            "it holds a JSON list; expected an object, {\"arch1\": {\"acc\": .., \"arch\": ..}} or \
             {\"code\": acc}"
                .into(),
        )),
        Some(_) => csv_entries(path, text),
    }
}

fn json(text: &str) -> serde_json::Result<Vec<(Place, Score)>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let entries = deserializer.deserialize_map(Entries)?;
    deserializer.end()?;
    Ok(entries)
}

/// Visits the outer object. A map type would lose the order and silently drop repeated keys.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(Place, Score)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of scores")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let score = map.next_value_seed(Entry { key: &key })?;
            // A code may repeat (whether it agrees is checked later); a name like `arch7` may not.
            if score.code != key && !names.insert(key.clone()) {
                return Err(de::Error::custom(format!("key `{key}` occurs twice")));
            }
            entries.push((Place::Key(key), score));
        }
        Ok(entries)
    }
}

/// Reads the value of `key`: an object with `acc` and `arch`, or an accuracy when the key is a code.
struct Entry<'a> {
    key: &'a str,
}

impl Entry<'_> {
    fn score<E>(&self, accuracy: f64) -> Result<Score, E> {
        Ok(Score { code: self.key.to_owned(), accuracy })
    }

    fn error<E: de::Error>(&self, problem: impl fmt::Display) -> E {
        E::custom(format!("key `{}`: {problem}", self.key))
    }
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = Score;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Score, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = Score;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an accuracy or {{\"acc\": .., \"arch\": ..}} as the value of key `{}`", self.key)
    }

    fn visit_f64<E>(self, accuracy: f64) -> Result<Score, E> {
        self.score(accuracy)
    }

    fn visit_u64<E>(self, accuracy: u64) -> Result<Score, E> {
        self.score(accuracy as f64)
    }

    fn visit_i64<E>(self, accuracy: i64) -> Result<Score, E> {
        self.score(accuracy as f64)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Score, A::Error> {
        let (mut accuracy, mut code) = (None, None);
        while let Some(field) = map.next_key::<String>()? {
            let repeated = match field.as_str() {
                "acc" => {
                    let number = map.next_value::<f64>();
                    let number =
                        number.map_err(|e| self.error(format!("`acc` is no number: {e}")))?;
                    accuracy.replace(number).is_some()
                }
                "arch" => {
                    let text = map.next_value::<String>();
                    let text = text.map_err(|e| self.error(format!("`arch` is no code: {e}")))?;
                    code.replace(text).is_some()
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if repeated {
                return Err(self.error(format!("`{field}` occurs twice")));
            }
        }
        let missing = |field| self.error::<A::Error>(format!("`{field}` is missing"));
        let accuracy = accuracy.ok_or_else(|| missing("acc"))?;
        Ok(Score { code: code.ok_or_else(|| missing("arch"))?, accuracy })
    }
}

fn csv_entries(path: &Path, text: &str) -> Result<Vec<(Place, Score)>, ScoresError> {
    let error = |line, problem| {
        Err(ScoresError::Entry { path: path.into(), place: Place::Line(line), problem })
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    // Without a header: exactly these two columns.
    let (mut code_at, mut accuracy_at, mut n_columns) = (0, 1, 2);
    let mut entries = Vec::new();
    let mut is_first = true;
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(entries),
            Err(e) => {
                return Err(ScoresError::Format { path: path.into(), problem: e.to_string() });
            }
        }
        let line = record.position().map_or(0, csv::Position::line);
        if std::mem::take(&mut is_first) {
            let at = |name: &str| record.iter().position(|field| field.eq_ignore_ascii_case(name));
            if let (Some(code), Some(accuracy)) = (at("code"), at("acc")) {
                (code_at, accuracy_at, n_columns) = (code, accuracy, record.len());
                continue;
            }
            // The first field is not even a code, so this is a header, of another table.
            let first = record.get(0).unwrap_or_default();
            if !first.starts_with(|c: char| c.is_ascii_digit()) {
                let found = record.iter().collect::<Vec<_>>().join(",");
                return error(line, format!("expected the header `code,acc`, found `{found}`"));
            }
        }
        if record.len() != n_columns {
            let found = record.iter().collect::<Vec<_>>().join(",");
            let n = record.len();
            return error(line, format!("expected {n_columns} columns, found {n}: `{found}`"));
        }
        let accuracy = &record[accuracy_at];
        let Ok(accuracy) = accuracy.parse::<f64>() else {
            return error(line, format!("accuracy `{accuracy}` is not a number"));
        };
        entries.push((Place::Line(line), Score { code: record[code_at].to_owned(), accuracy }));
    }
}

#[cfg(test)]
mod tests {
    use crate::scores::Scores;
    use std::path::Path;

    fn read(text: &str) -> Vec<(String, f64)> {
        let scores = Scores::parse(Path::new("s"), text).unwrap();
        scores.entries().iter().map(|s| (s.code.clone(), s.accuracy)).collect()
    }

    #[test]
    fn every_form_reads_the_same_in_its_order() {
        let expect =
            vec![("21".to_owned(), 70.5), ("12".to_owned(), 71.0), ("11".to_owned(), -1.0)];
        for text in [
            r#"{"arch9": {"acc": 70.5, "arch": "21"}, "arch1": {"arch": "12", "acc": 71, "x": [1]},
                "a": {"acc": -1, "arch": "11"}}"#,
            r#" {"21": 70.5, "12": 71, "11": -1} "#,
            "code,acc\n21,70.5\n12,71\n11,-1\n",
            "21,70.5\r\n12,71\r\n\r\n11,-1",
            "\u{feff}ACC, Params, Code\n 70.5 ,9,21\n71.0,8,12\n-1,7,11\n",
            // Repeated with the same accuracy: once.
            r#"{"21": 70.5, "12": 71, "21": 70.5, "11": -1}"#,
            "21,70.5\n12,71\n11,-1\n12,71.0\n",
        ] {
            assert_eq!(read(text), expect, "{text}");
        }
    }

    #[test]
    fn malformed_files_are_named_with_place_and_value() {
        let check = |text: &str, needles: &[&str]| {
            let message = Scores::parse(Path::new("dir/s.txt"), text).unwrap_err().to_string();
            for needle in needles.iter().chain(&["dir/s.txt"]) {
                assert!(message.contains(needle), "{text}: {message} lacks {needle}");
            }
        };
        check("", &["empty"]);
        check("{}", &["no scores"]);
        check("code,acc\n", &["no scores"]);
        check("[1, 2]", &["list"]);
        check(r#"{"11": 1.0"#, &["line 1"]);
        check(r#"{"11": 1.0} x"#, &["trailing"]);
        check(r#"{"11": "70.4"}"#, &["key `11`", "70.4"]);
        check(r#"{"11": null}"#, &["key `11`", "null"]);
        check(r#"{"11": 1e999}"#, &["out of range"]);
        check(r#"{"arch1": 70.4}"#, &["key `arch1`", "`arch1` is not a code"]);
        check(r#"{"a7": {"acc": 70.4}}"#, &["key `a7`", "`arch` is missing"]);
        check(r#"{"a7": {"arch": "11"}}"#, &["key `a7`", "`acc` is missing"]);
        check(r#"{"a7": {"acc": "x", "arch": "11"}}"#, &["key `a7`", "`acc`", "\"x\""]);
        check(r#"{"a7": {"acc": 1, "arch": 11}}"#, &["key `a7`", "`arch`", "11"]);
        check(r#"{"a7": {"acc": 1, "acc": 2, "arch": "11"}}"#, &["key `a7`", "twice"]);
        check(
            "{\"a\": {\"acc\": 1, \"arch\": \"11\"},\n\"a\": {\"acc\": 2, \"arch\": \"12\"}}",
            &["key `a`", "twice"],
        );
        check(
            r#"{"a": {"acc": 1.5, "arch": "11"}, "b": {"acc": 2.5, "arch": "11"}}"#,
            &["code 11", "1.5", "key `a`", "2.5", "key `b`"],
        );
        check("11,1.5\n12,2\n11,2.5\n", &["code 11", "1.5", "line 1", "2.5", "line 3"]);
        check("code,acc\n11,70\n12,seventy\n", &["line 3", "`seventy`"]);
        check("code,acc\n11,NaN\n", &["line 2", "NaN"]);
        check("11,70\n12,inf\n", &["line 2", "inf"]);
        check("11,70\n12\n", &["line 2", "`12`", "2 columns"]);
        check("11,70,3\n", &["line 1", "`11,70,3`"]);
        check("11,70\n1x,71\n", &["line 2", "`1x`"]);
        check("11,70\n111,71\n", &["line 2", "111", "3 digits", "line 1", "2"]);
        check("arch,top1\n11,70\n", &["line 1", "arch,top1", "code,acc"]);
    }
}
