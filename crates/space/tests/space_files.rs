//! Space files: round trips, the documented example, and errors that name line and value.

mod shared;

use shared::spaces;
use slimtau_space::{SearchSpace, SpaceError};

const EXAMPLE: &str = r#"name = "tiny"
image_size = 32
channels = 3
classes = 10
ratios = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7]
divisor = 8
block = "basic"
stem = { width = 16, kernel = 3, stride = 1, max_pool = false, codes = 7 }
[[stage]]
width = 16
depth = [2, 5]
stride = 1
codes = 7        # how many ratios, from the widest, samplers may draw here
[[stage]]
width = 32
depth = [2, 5]
stride = 2
codes = 7
[[stage]]
width = 64
depth = [2, 8]
stride = 2
codes = 7
[[stage]]
width = 128
depth = [2, 5]
stride = 2
codes = 7
"#;

#[test]
fn the_documented_example_is_the_preset() {
    let tiny = SearchSpace::preset("tiny").unwrap();
    assert_eq!(SearchSpace::from_toml(EXAMPLE, "tiny.toml").unwrap(), tiny);
    let without_divisor = EXAMPLE.replace("divisor = 8\n", "");
    assert_eq!(SearchSpace::from_toml(&without_divisor, "tiny.toml").unwrap(), tiny);
}

#[test]
fn spaces_round_trip() {
    for space in spaces() {
        space.validate().unwrap();
        assert_eq!(SearchSpace::from_toml(&space.to_toml(), "again.toml").unwrap(), space);
    }
}

#[test]
fn faults_name_file_line_and_value() {
    let check = |from: &str, to: &str, expect: &str| {
        assert!(EXAMPLE.contains(from), "nothing to replace: {from}");
        let text = EXAMPLE.replacen(from, to, 1);
        let message = SearchSpace::from_toml(&text, "my.toml").unwrap_err().to_string();
        assert_eq!(message, format!("my.toml: {expect}"));
    };
    let sizes = "it must be from 1 to";
    check("image_size = 32", "image_size = 0", &format!("line 2: image_size = 0: {sizes} 2048"));
    check("channels = 3", "channels = 9999", &format!("line 3: channels = 9999: {sizes} 8192"));
    check("classes = 10", "classes = 0", &format!("line 4: classes = 0: {sizes} 1048576"));
    check("divisor = 8", "divisor = 0", &format!("line 6: divisor = 0: {sizes} 8192"));
    check("0.95, 0.9", "0.9, 0.95", "line 5: ratios = [0.9, 0.95]: it must fall from code to code");
    check("[1.0,", "[1.5,", "line 5: ratios = 1.5: it must be in (0, 1]");
    check("0.7]", "0.0]", "line 5: ratios = 0.0: it must be in (0, 1]");
    check("0.7]", "nan]", "line 5: ratios = NaN: it must be in (0, 1]");
    check("0.7]", "0.7, 0.6, 0.5, 0.4]", "line 5: there are 10 ratios; 1 to 9 fit a code's digit");
    check("kernel = 3", "kernel = 4", "line 8: stem.kernel = 4: it must be odd");
    check("stride = 1,", "stride = 3,", &format!("line 8: stem.stride = 3: {sizes} 2"));
    check("codes = 7 }", "codes = 8 }", &format!("line 8: stem.codes = 8: {sizes} 7"));
    check("width = 32", "width = 0", &format!("line 15: stage 2.width = 0: {sizes} 8192"));
    let depth = "it must be [fewest, most] with 1 <= fewest <= most <= 9";
    check("[2, 8]", "[8, 2]", &format!("line 21: stage 3.depth = [8, 2]: {depth}"));
    check("[2, 8]", "[2, 10]", &format!("line 21: stage 3.depth = [2, 10]: {depth}"));
    check("[2, 8]", "[0, 8]", &format!("line 21: stage 3.depth = [0, 8]: {depth}"));
    // What the TOML reader itself finds.
    check(
        "classes = 10",
        "clases = 10",
        "line 4: unknown field `clases`, expected one of `name`, `image_size`, `channels`, \
         `classes`, `ratios`, `divisor`, `block`, `stem`, `stage`",
    );
    check(
        "block = \"basic\"",
        "block = \"wide\"",
        "line 7: unknown variant `wide`, expected `basic` or `bottleneck`",
    );
    check(
        "codes = 7        #",
        "cods = 7        #",
        "line 13: unknown field `cods`, expected one of `width`, `depth`, `stride`, `codes`",
    );
    check("width = 32", "width = -32", "line 15: invalid value: integer `-32`, expected usize");
    check("width = 64\n", "", "line 19: missing field `width`");
    let many = format!(
        "{EXAMPLE}{}",
        "[[stage]]\nwidth = 8\ndepth = [1, 1]\nstride = 1\ncodes = 1\n".repeat(6)
    );
    let message = SearchSpace::from_toml(&many, "my.toml").unwrap_err().to_string();
    assert!(message.ends_with("there are 10 stages; 1 to 9 fit"), "{message}");
}

#[test]
fn names_and_files_are_found() {
    assert_eq!(SearchSpace::load("mini").unwrap(), SearchSpace::preset("mini").unwrap());
    let unknown = SearchSpace::load("nosuch.toml").unwrap_err();
    assert!(matches!(&unknown, SpaceError::Unknown { name } if name == "nosuch.toml"));
    assert_eq!(
        unknown.to_string(),
        "no search space `nosuch.toml`: neither a preset (cvpr2022, mini, tiny) nor a file"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("space.toml");
    std::fs::write(&path, EXAMPLE).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(SearchSpace::load(path).unwrap(), SearchSpace::preset("tiny").unwrap());
    std::fs::write(path, "name = 3").unwrap();
    let message = SearchSpace::load(path).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{path}: line 1: ")), "{message}");
}

#[test]
fn spaces_changed_by_hand_can_be_checked() {
    let mut space = SearchSpace::preset("tiny").unwrap();
    space.stages[1].codes = 8;
    assert_eq!(
        space.validate().unwrap_err().to_string(),
        "search space `tiny`: stage 2.codes = 8: it must be from 1 to 7"
    );
}
