//! Readers of text: rows of examples with anything in them.
//!
//! Promises: they never panic, and a batch that they give keeps its invariants.

use std::fmt::Debug;

use learn::data::{Csr, DataError, Format, Labels, SourceSpec, parse_block};

use super::{Target, answer_number};
use crate::random::Random;

/// A reader of one format.
pub(super) struct Text {
    format: Format,
    spec: SourceSpec,
}

impl Text {
    pub(super) fn new(format: Format) -> Text {
        let spec = SourceSpec { format: Some(format), parsers: 1, ..SourceSpec::default() };
        Text { format, spec }
    }
}

impl Target for Text {
    fn inputs(&self) -> Vec<Vec<u8>> {
        let texts: &[&str] = match self.format {
            Format::LibSvm => &[
                "1 1:0.5 7:1 9:-2.5e3\n-1 qid:3 2:1\n0 # nothing\n",
                "+1 18446744073709551614:1 \r\n0 0:0 1:.5\n",
            ],
            Format::Vw => &[
                "1 |a x:0.5 y |b z\n-1 2.0 'tag|c 7:1e-3 8\n",
                "0 1 0.5 some'tag|user:2.5 id=7 age:31 |item |empty\n\n1|x y",
            ],
            Format::Criteo => &[
                "0\t1\t2\t\t4\t5\t6\t7\t8\t9\t10\t11\t12\t13\ta\tb\tc\td\te\tf\tg\th\ti\tj\tk\tl\t\
                 m\tn\to\tp\tq\tr\ts\tt\tu\tv\tw\tx\ty\tz\n",
                "1\t\t-1\t\t\t\t\t\t\t\t\t\t\t\t68fd1e64\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\
                 \t\t\t\t\n",
            ],
            _ => &[
                "label,price,color\n1,0.5,red\n0,7,\"dark, blue\"\n1,,\"a \"\"b\"\"\"\n",
                "y,n\r\n1,3\r\n0,-2\r\n",
            ],
        };
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    fn tokens(&self) -> &'static [&'static [u8]] {
        &[
            b"\n",
            b"\r\n",
            b"\"",
            b"\"\"",
            b",",
            b"\t",
            b"|",
            b":",
            b" ",
            b"'",
            b"#",
            b"qid:",
            b"1e309",
            b"-1e-400",
            b"nan",
            b"inf",
            b"-0",
            b"+",
            b".",
            b"18446744073709551615",
            b"18446744073709551616",
            b"99999999999999999999999999999999999999999",
            b"\xEF\xBB\xBF",
            b"\xFF\xFE",
            b"\0",
        ]
    }

    fn mend(&self, input: &mut Vec<u8>, random: &mut Random) {
        if random.below(4) == 0 && input.last() != Some(&b'\n') {
            input.push(b'\n');
        }
    }

    fn feed(&mut self, input: &[u8]) -> u64 {
        // Both settings see each input, so that one alone reproduces a failure.
        let answers = [Labels::Required, Labels::Optional].map(|labels| {
            self.spec.labels = labels;
            match parse_block(self.format, &self.spec, input) {
                Ok(csr) => {
                    check(&csr, labels);
                    ["none", "one", "some"][csr.rows().min(2)].to_owned()
                }
                // What the variant says of the input would make every answer a new one.
                Err(DataError::Row(row)) => variant(&row.reason),
                Err(error) => variant(&error),
            }
        });
        answer_number(&answers.concat())
    }
}

fn variant(error: &impl Debug) -> String {
    format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// What holds of every batch.
fn check(csr: &Csr, labels: Labels) {
    let non_zeros = csr.columns.len();
    assert!(csr.keys.is_sorted_by(|one, two| one < two), "keys ascend: {:?}", csr.keys);
    assert_ne!(csr.keys.last(), Some(&u64::MAX), "the reserved key is none");
    let mut named = vec![false; csr.keys.len()];
    csr.columns.iter().for_each(|&column| named[column as usize] = true);
    assert!(named.iter().all(|&is| is), "each key is named by a column");
    assert!(csr.values.is_empty() || csr.values.len() == non_zeros, "a value a non-zero");
    assert!(csr.values.iter().all(|value| value.is_finite()), "{:?}", csr.values);
    assert_eq!(csr.row_starts.len(), csr.rows() + 1);
    assert!(csr.row_starts.is_sorted(), "{:?}", csr.row_starts);
    assert_eq!(csr.row_starts.last().map(|&end| end as usize), Some(non_zeros));
    let known = |label: &f32| [0.0, 1.0].contains(label);
    let optional = labels == Labels::Optional;
    assert!(csr.labels.iter().all(|label| known(label) || optional && label.is_nan()));
    assert!(csr.importance.is_empty() || csr.importance.len() == csr.rows());
    let positive = |&weight: &f32| weight > 0.0 && weight.is_finite();
    assert!(csr.importance.iter().all(positive), "{:?}", csr.importance);
}
