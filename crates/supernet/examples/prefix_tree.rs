//! What sharing prefixes saves on a list of codes: operations and seconds, with the same logits.
//!
//! `prefix_tree SPACE CODES IMAGES [N [tree]]` takes the first N codes of a file (all by default) and one batch of images.
//! With `tree`, they go through the tree once and not one by one: `scripts/compare_list.py` compares that with PyTorch.

use slimtau_base::{fill_normal, stream};
use slimtau_space::SearchSpace;
use slimtau_supernet::{Layout, Plan, PrefixTree, Session, Statistics, TreeSession, Weights};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [space, codes, images, more @ ..] = &words[..] else {
        return Err("three arguments, please: SPACE CODES IMAGES [N [tree]]".into());
    };
    let tree_only = match more.get(1).map(String::as_str) {
        None => false,
        Some("tree") => true,
        Some(other) => return Err(format!("{other}: only `tree` may follow the number").into()),
    };
    let space = SearchSpace::load(space)?;
    let layout = Layout::supernet(&space)?;
    let Weights { params, buffers } = Weights::init(&layout, 0);
    let n = more.first().map_or(Ok(usize::MAX), |n| n.parse())?;
    let text = std::fs::read_to_string(codes)?;
    let codes = text.split([',', ' ', '\n', '\r']).filter(|code| !code.is_empty()).take(n);
    let plan = |code| Plan::subnet(&space, &layout, &space.parse(code)?).map_err(Box::from);
    let plans: Vec<Plan> = codes.map(plan).collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let mut batch = vec![0.0; images.parse::<usize>()? * plans[0].image_len()];
    fill_normal(&mut stream(0, "images", 0), 1.0, &mut batch);

    let tree = PrefixTree::new(plans.clone());
    let macs = tree.macs();
    let mut session = TreeSession::default();
    let mut found = vec![Vec::new(); plans.len()];
    // Once for memory and threads, once for the clock.
    for _ in 0..if tree_only { 1 } else { 2 } {
        let begin = Instant::now();
        tree.infer(
            &mut session,
            &params,
            Statistics::Shared(&buffers[..]),
            &batch,
            |place, logits| {
                found[place] = logits.to_vec();
            },
        )?;
        println!("tree        {:8.3} s", begin.elapsed().as_secs_f64());
    }
    if tree_only {
        return Ok(());
    }
    let mut session = Session::new();
    session.infer(&plans[0], &params, &buffers, &batch)?;
    let begin = Instant::now();
    for (plan, found) in plans.iter().zip(&found) {
        assert_eq!(session.infer(plan, &params, &buffers, &batch)?, found, "other logits");
    }
    println!("one by one  {:8.3} s", begin.elapsed().as_secs_f64());
    let saving = macs.one_by_one as f64 / macs.shared as f64;
    println!(
        "{} codes: {:.4e} multiply-accumulates per image one by one, {:.4e} in the tree ({saving:.3} times fewer)",
        plans.len(),
        macs.one_by_one as f64,
        macs.shared as f64
    );
    Ok(())
}
