//! Parser of vectors: text to [`Suite`]. `../README.md` describes the format.

use std::time::Duration;

use crate::matcher::Matcher;
use crate::template::Template;
use crate::vector::{
    Action, Answer, Awaited, Bytes, Case, Check, Expectation, Field, Files, Level, Levels, Line,
    Need, Outcome, Place, Request, Responses, Rule, Step, Suite, Transport,
};
use crate::version::VersionSet;

const RULES: &str = "every";
const FRAGMENTS: &str = "given/";

/// Returns the path of the steps that `include: NAME` inserts.
pub(crate) fn fragment_path(dialect: &str, name: &str) -> String {
    format!("{dialect}/{FRAGMENTS}{name}.http")
}

impl Suite {
    pub(crate) fn parse(files: &Files) -> Result<Self, String> {
        let mut suite = Self::default();
        for (path, text) in files {
            let Some((dialect, name)) = path
                .strip_suffix(".http")
                .and_then(|path| path.split_once('/'))
            else {
                continue;
            };
            if name == RULES {
                let rules = Reader::new(files, dialect, path, text).rules()?;
                suite.rules.insert(dialect.to_owned(), rules);
            } else if !name.starts_with(FRAGMENTS) {
                suite.cases.push(
                    Reader::new(files, dialect, path, text).case(&format!("{dialect}/{name}"))?,
                );
            }
        }
        Ok(suite)
    }
}

struct Reader<'a> {
    files: &'a Files,
    dialect: &'a str,
    path: &'a str,
    text: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn new(files: &'a Files, dialect: &'a str, path: &'a str, text: &'a str) -> Self {
        Self {
            files,
            dialect,
            path,
            text,
            line: 0,
        }
    }

    fn place(&self) -> Place {
        Place {
            file: self.path.to_owned(),
            line: self.line,
        }
    }

    fn located(&self, message: String) -> String {
        format!("{}: {message}", self.place())
    }

    fn case(mut self, name: &str) -> Result<Case, String> {
        let title = self
            .text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .map(str::to_owned);
        let mut case = Case {
            name: name.to_owned(),
            title: title.ok_or_else(|| {
                format!("{}:1: a vector begins with a comment, its title", self.path)
            })?,
            source: self.text.to_owned(),
            versions: VersionSet::of_dialect(self.dialect),
            needs: Vec::new(),
            each: None,
            steps: Vec::new(),
        };
        for (index, line) in self.text.lines().enumerate() {
            self.line = index + 1;
            self.case_line(&mut case, line.trim_end())
                .map_err(|message| self.located(message))?;
        }
        if case.steps.is_empty() {
            return Err(format!("{}: a vector needs a step", self.path));
        }
        for (position, step) in case.steps.iter().enumerate() {
            let begins = |earlier: &Step| earlier.label == step.label && earlier.request.is_some();
            if step.request.is_none() && !case.steps[..position].iter().any(begins) {
                return Err(format!(
                    "{}: no step called {:?} has a request",
                    self.path, step.label
                ));
            }
        }
        Ok(case)
    }

    fn case_line(&self, case: &mut Case, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix("include: ") {
            case.steps.extend(self.fragment(name)?);
            return Ok(());
        }
        if self.step_line(&mut case.steps, line)? {
            return Ok(());
        }
        if !case.steps.is_empty() {
            return Err(format!(
                "{line:?} is neither a step, a request line nor an expectation"
            ));
        }
        let (key, value) = line
            .split_once(": ")
            .ok_or_else(|| format!("{line:?} is no setting"))?;
        match key.split_once(' ').unwrap_or((key, "")) {
            ("for", "") => case.versions = VersionSet::parse(value.split_whitespace())?,
            ("needs", "") => case.needs.push(need(value)?),
            ("each", name) if !name.is_empty() => {
                let values = value
                    .split(" ; ")
                    .map(|value| value.trim().to_owned())
                    .collect();
                case.each = Some((name.to_owned(), values));
            }
            _ => return Err(format!("no setting is called {key:?}")),
        }
        Ok(())
    }

    /// Parses the steps of `given/NAME.http` in the same dialect.
    fn fragment(&self, name: &str) -> Result<Vec<Step>, String> {
        let path = fragment_path(self.dialect, name);
        let text = self
            .files
            .get(&path)
            .ok_or_else(|| format!("there is no {path}"))?;
        let mut reader = Reader::new(self.files, self.dialect, &path, text);
        let mut steps = Vec::new();
        for (index, line) in text.lines().enumerate() {
            reader.line = index + 1;
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !reader
                .step_line(&mut steps, line)
                .map_err(|message| reader.located(message))?
            {
                return Err(reader.located(format!("{line:?} has no place in a fragment")));
            }
        }
        Ok(steps)
    }

    fn rules(mut self) -> Result<Vec<Rule>, String> {
        let mut rules: Vec<Rule> = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            self.line = index + 1;
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.rule_line(&mut rules, line)
                .map_err(|message| self.located(message))?;
        }
        Ok(rules)
    }

    fn rule_line(&self, rules: &mut Vec<Rule>, line: &str) -> Result<(), String> {
        let line = line.strip_prefix("< ").ok_or("rules are expectations")?;
        let (head, when) = match line.split_once(" when ") {
            Some((head, field)) => (head, Some(field.to_owned())),
            None => (line, None),
        };
        let to = match head {
            "any 104" => Responses::Interim,
            "any final" => Responses::Final,
            _ => {
                let check = self.check(line)?;
                rules
                    .last_mut()
                    .ok_or("a rule begins with `any 104` or `any final`")?
                    .checks
                    .push(check);
                return Ok(());
            }
        };
        rules.push(Rule {
            to,
            when,
            checks: Vec::new(),
        });
        Ok(())
    }

    /// Parses a line of a step; `false` if the line is not one.
    fn step_line(&self, steps: &mut Vec<Step>, line: &str) -> Result<bool, String> {
        if let Some(rest) = line.strip_prefix("== ") {
            let (versions, label) = version_annotation(rest)?;
            steps.push(Step {
                label: label.to_owned(),
                versions,
                request: None,
                script: Vec::new(),
            });
            return Ok(true);
        }
        let Some((direction @ (">" | "<"), rest)) = line.split_once(' ') else {
            return Ok(false);
        };
        let step = steps
            .last_mut()
            .ok_or("a request or an expectation belongs to a step, which begins with `== `")?;
        if matches!(step.script.last(), Some(Line::Cut)) {
            return Err("nothing follows a cut".to_owned());
        }
        match direction {
            ">" => self.request_line(step, rest)?,
            _ => self.expectation_line(step, rest)?,
        }
        Ok(true)
    }

    fn request_line(&self, step: &mut Step, line: &str) -> Result<(), String> {
        let (versions, line) = version_annotation(line)?;
        if line == "@cut" {
            step.script.push(Line::Cut);
            return Ok(());
        }
        if let Some(action) = action(line)? {
            step.script.push(Line::Do(versions, self.place(), action));
            return Ok(());
        }
        if !step.script.is_empty() {
            return Err("the head is over".to_owned());
        }
        match &mut step.request {
            None => step.request = Some(self.request_head(line)?),
            Some(request) => request.fields.push((versions, field(line)?)),
        }
        Ok(())
    }

    fn request_head(&self, line: &str) -> Result<Request, String> {
        let mut words = line.split(' ');
        let (Some(method), Some(target), version, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("{line:?} is no request line"));
        };
        let http_1_0 = match version {
            None => false,
            Some("HTTP/1.0") => true,
            Some(other) => return Err(format!("the version {other:?} cannot be asked for")),
        };
        if !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("{method:?} is no method"));
        }
        Ok(Request {
            place: self.place(),
            method: method.to_owned(),
            target: Template::parse(target)?,
            http_1_0,
            fields: Vec::new(),
        })
    }

    fn expectation_line(&self, step: &mut Step, line: &str) -> Result<(), String> {
        let (levels, rest) = annotation(line)?;
        if let Some(awaited) = awaited(rest)? {
            step.script.push(Line::Await(Answer {
                place: self.place(),
                levels,
                awaited,
                checks: Vec::new(),
            }));
            return Ok(());
        }
        let check = self.check(line)?;
        match step.script.last_mut() {
            Some(Line::Await(answer)) if !matches!(answer.awaited, Awaited::NoInterim(_)) => {
                answer.checks.push(check);
            }
            _ => return Err("a field is expected of a response: begin with its status".to_owned()),
        }
        Ok(())
    }

    fn check(&self, line: &str) -> Result<Check, String> {
        let (levels, line) = annotation(line)?;
        let (line, capture) = match line.split_once(" => ") {
            Some((line, name)) => (line, Some(name.trim().to_owned())),
            None => (line, None),
        };
        let (name, value) = line
            .split_once(": ")
            .ok_or_else(|| format!("{line:?} is no expectation"))?;
        let value = value.trim();
        let expected = match name {
            "@status" => Expectation::Status(outcomes(value)?),
            "@within" => Expectation::Within(duration(value)?),
            "@complete" => Expectation::Complete(yes_or_no(value)?),
            "@interop" if value == "echo" => Expectation::InteropEcho,
            "@body" => Expectation::Body(bytes(value)?),
            "@problem" => Expectation::Problem("type".to_owned(), Matcher::parse(value)?),
            _ => match name.strip_prefix("@problem.") {
                Some(member) => Expectation::Problem(member.to_owned(), Matcher::parse(value)?),
                None => Expectation::Field(field_name(name)?, Matcher::parse(value)?),
            },
        };
        Ok(Check {
            place: self.place(),
            levels,
            expected,
            capture,
        })
    }
}

fn need(value: &str) -> Result<Need, String> {
    match value.split_once(' ') {
        Some(("tus", extension)) => Ok(Need::TusExtension(extension.to_owned())),
        Some(("limit", key)) => Ok(Need::Limit(key.to_owned())),
        Some(("no", key)) => Ok(Need::NoLimit(key.to_owned())),
        Some(("room", size)) => size
            .parse()
            .map(Need::Room)
            .map_err(|_| format!("{size:?} is no number of bytes")),
        None if value == "104" => Ok(Need::Interim),
        None if value == "HTTP/1.1" => Ok(Need::Transport(Transport::Http1)),
        None if value == "HTTP/2" => Ok(Need::Transport(Transport::Http2)),
        _ => Err(format!("{value:?} cannot be needed")),
    }
}

/// Splits `[must ..6, should 7..] rest`. Without brackets, the expectation is a must in every
/// version.
pub(crate) fn annotation(line: &str) -> Result<(Levels, &str), String> {
    let Some((inside, rest)) = line
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "))
    else {
        return Ok((Levels(vec![(VersionSet::default(), Level::Must)]), line));
    };
    let clauses = inside.split(',').map(|clause| {
        let mut words = clause.split_whitespace().peekable();
        let level = match words.peek() {
            Some(&"must") => Some(Level::Must),
            Some(&"should") => Some(Level::Should),
            Some(&"may") => Some(Level::May),
            _ => None,
        };
        if level.is_some() {
            words.next();
        }
        Ok((VersionSet::parse(words)?, level.unwrap_or(Level::Must)))
    });
    Ok((Levels(clauses.collect::<Result<_, String>>()?), rest))
}

/// Splits `[6..] rest`.
pub(crate) fn version_annotation(line: &str) -> Result<(VersionSet, &str), String> {
    match line
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "))
    {
        Some((inside, rest)) => Ok((VersionSet::parse(inside.split_whitespace())?, rest)),
        None => Ok((VersionSet::default(), line)),
    }
}

fn action(line: &str) -> Result<Option<Action>, String> {
    let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
    Ok(Some(match word {
        "@body" => Action::Body(bytes(argument)?),
        "@send" => Action::Send(bytes(argument)?),
        "@trailer" => match field(argument)? {
            Field::Named(name, value) => Action::Trailer(name, value),
            Field::Interop | Field::PartialUpload | Field::Complete(_) => {
                return Err("a trailer is written out".to_owned());
            }
        },
        "@end" => Action::End,
        "@pause" => Action::Pause(duration(argument)?),
        _ => return Ok(None),
    }))
}

/// Parses `100` (that many bytes from the beginning), `40..100`, `none`, or `text WORDS`.
fn bytes(text: &str) -> Result<Bytes, String> {
    let zero = Template::parse("0")?;
    if text == "none" {
        return Ok(Bytes::Content(zero.clone(), zero));
    }
    if let Some(text) = text.strip_prefix("text ") {
        return Template::parse(text).map(Bytes::Text);
    }
    match text.split_once("..") {
        Some((from, to)) => Ok(Bytes::Content(Template::parse(from)?, Template::parse(to)?)),
        None if text.is_empty() => Err("which bytes?".to_owned()),
        None => Ok(Bytes::Content(zero, Template::parse(text)?)),
    }
}

fn field(line: &str) -> Result<Field, String> {
    match line {
        "@interop" => return Ok(Field::Interop),
        "@partial-upload" => return Ok(Field::PartialUpload),
        _ => {}
    }
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| format!("{line:?} is no field"))?;
    let value = value.trim();
    match name {
        "@complete" => yes_or_no(value).map(Field::Complete),
        _ => Ok(Field::Named(field_name(name)?, Template::parse(value)?)),
    }
}

fn field_name(name: &str) -> Result<String, String> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(format!("{name:?} is no field name"));
    }
    Ok(name.to_owned())
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{value:?} is neither yes nor no")),
    }
}

fn awaited(line: &str) -> Result<Option<Awaited>, String> {
    let status = |word: &str| {
        word.parse()
            .ok()
            .filter(|status| (100..200).contains(status))
    };
    let (interim, within) = match line.split_once(" within ") {
        Some((interim, within)) => (interim, Some(duration(within)?)),
        None => (line, None),
    };
    let awaited = match interim.split_once(' ') {
        None => status(interim).map(|status| Awaited::Interim(status, within)),
        Some(("any", word)) => status(word).map(Awaited::EachInterim),
        Some(("no", word)) => status(word).map(Awaited::NoInterim),
        Some(_) => None,
    };
    if awaited.is_some() {
        return Ok(awaited);
    }
    let (set, excuses) = match line.split_once(", ") {
        Some((set, excuse)) => {
            let excuses = excuse
                .strip_suffix(" skips")
                .ok_or_else(|| format!("{excuse:?} is no excuse"))?;
            (set, outcomes(excuses)?)
        }
        None => (line, Vec::new()),
    };
    let is_end = set.starts_with(|c: char| c.is_ascii_digit()) || set.starts_with("closed");
    if !is_end {
        return Ok(None);
    }
    Ok(Some(Awaited::End {
        outcomes: outcomes(set)?,
        excuses,
    }))
}

fn outcomes(set: &str) -> Result<Vec<Outcome>, String> {
    let outcome = |word: &str| match (word.parse(), word.strip_suffix("xx").map(str::parse)) {
        _ if word == "closed" => Ok(Outcome::Closed),
        (Ok(status @ 200..=599), _) => Ok(Outcome::Status(status)),
        (_, Some(Ok(class @ 2..=5))) => Ok(Outcome::Class(class)),
        _ => Err(format!("{word:?} is no final status")),
    };
    set.split('|').map(|word| outcome(word.trim())).collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse().ok().map(Duration::from_millis),
        None => text
            .strip_suffix('s')
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs),
    };
    parsed.ok_or_else(|| format!("{text:?} is no duration, such as 1s or 300ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    fn parse(text: &str) -> Result<Case, String> {
        let given = "== given\n> POST {target}\n< 201\n< Location: (any) => upload\n";
        let files = Files::from([
            ("ietf/a.http".to_owned(), text.to_owned()),
            ("ietf/given/one.http".to_owned(), given.to_owned()),
        ]);
        Suite::parse(&files).map(|mut suite| suite.cases.remove(0))
    }

    #[test]
    fn a_case_is_read_in_order() {
        let case = parse(
            "# Title\n#\n# Why\nfor: 5..\nneeds: 104\neach n: 1 ; 2\n\ninclude: one\n\n== [6..] append\n> PATCH {upload}\n> @interop\n\
             > [7..] Upload-Length: 9\n< [should] 104\n> @send 0..4\n> @end\n< 2xx|closed, 405 skips\n< @within: 1s\n< [must ..6, may] @status: 201\n",
        )
        .unwrap();
        assert_eq!(case.title, "Title");
        assert_eq!(case.needs, [Need::Interim]);
        assert_eq!(
            case.each,
            Some(("n".to_owned(), vec!["1".to_owned(), "2".to_owned()]))
        );
        assert_eq!(case.steps.len(), 2);
        let step = &case.steps[1];
        assert!(!step.versions.contains(Version::Interop(5)));
        assert_eq!(step.request.as_ref().unwrap().fields.len(), 2);
        assert_eq!(step.script.len(), 4);
        let Line::Await(answer) = &step.script[3] else {
            panic!("the last line is an answer")
        };
        let levels = &answer.checks[1].levels;
        assert_eq!(levels.of(Version::Interop(3)), Some(Level::Must));
        assert_eq!(levels.of(Version::Rfc), Some(Level::May));
    }

    #[test]
    fn levels_name_only_the_versions_they_concern() {
        let (levels, rest) = annotation("[7..9] @status: 204").unwrap();
        assert_eq!(rest, "@status: 204");
        assert_eq!(levels.of(Version::Interop(8)), Some(Level::Must));
        assert_eq!(levels.of(Version::Interop(6)), None);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err();
            assert!(
                error.starts_with("ietf/a.http:") && error.contains(expected),
                "{error}"
            );
        };
        check("for: 3..\n", "begins with a comment");
        check("# Title\nfor: 2\n", "no version");
        check("# Title\n> GET /\n", "belongs to a step");
        check("# Title\n== a\n> GET\n", "no request line");
        check(
            "# Title\n== a\n> GET /\n< Location: (any)\n",
            "begin with its status",
        );
        check(
            "# Title\n== a\n> GET /\n< no 104\n< Location: (any)\n",
            "begin with its status",
        );
        check("# Title\n== a\n> GET /\n< 20\n", "no final status");
        check(
            "# Title\n== a\n> GET /\n< 200\n< Location: (anything)\n",
            "no matcher",
        );
        check(
            "# Title\n== a\n> GET /\n> @end\n> Late: 1\n",
            "the head is over",
        );
        check(
            "# Title\n== a\n> GET /\n> @cut\n< 200\n",
            "nothing follows a cut",
        );
        check("# Title\ninclude: two\n", "there is no");
        check("# Title\nfor: 3..\n", "needs a step");
        assert!(
            parse("# Title\n== a\n< 200\n")
                .unwrap_err()
                .contains("no step called")
        );
    }
}
