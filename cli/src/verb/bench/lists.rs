// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lists on the command line as `dpdk-test-crypto-perf` has them: `64,128` or `MIN:INC:MAX`.

/// Most points that one flag may ask for.
const MOST: usize = 1024;

/// Numbers of one flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List(pub(super) Vec<usize>);

pub(super) fn parse(text: &str) -> Result<List, String> {
    let number = |word: &str| {
        let parsed = word.trim().parse::<usize>();
        parsed.map_err(|error| format!("{word:?}: {error}; expected 64, 64,128 or 64:64:1024"))
    };
    if let [least, step, most] = text.split(':').collect::<Vec<_>>()[..] {
        let (least, step, most) = (number(least)?, number(step)?, number(most)?);
        if step == 0 || least > most {
            return Err("MIN:INC:MAX goes up from MIN to MAX by INC, which is not 0".to_owned());
        }
        if (most - least) / step >= MOST {
            return Err(format!("more than {MOST} points"));
        }
        return Ok(List((least..=most).step_by(step).collect()));
    }
    text.split(',')
        .map(number)
        .collect::<Result<_, _>>()
        .map(List)
}

/// As [`parse`], without 0.
pub(super) fn positive(text: &str) -> Result<List, String> {
    let list = parse(text)?;
    if list.0.contains(&0) {
        return Err("0 makes no sense here".to_owned());
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_numbers_or_a_range() {
        assert_eq!(parse("64").unwrap().0, [64]);
        assert_eq!(parse("64, 128,1420").unwrap().0, [64, 128, 1420]);
        assert_eq!(parse("64:32:130").unwrap().0, [64, 96, 128]);
        for bad in ["", "x", "1:0:2", "3:1:2", "1:2", "0:1:99999", "-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(positive("0,1").is_err());
    }
}
