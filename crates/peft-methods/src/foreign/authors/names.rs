//! What the authors' modules and tensors are called, and what they are called here.

/// Modules: parts of `in_proj` and `x_proj`, and the embedding, which has its original name there.
const MODULES: [(&str, &str); 6] = [
    ("in_proj_x", "in_proj.x"),
    ("in_proj_z", "in_proj.z"),
    ("x_proj_dt", "x_proj.dt"),
    ("x_proj_B", "x_proj.b"),
    ("x_proj_C", "x_proj.c"),
    ("embedding", "embeddings"),
];

/// Parts of tensor names that a method's tensor has, without the adapter's name. The first that is found counts.
const TENSORS: [(&str, &str); 14] = [
    ("parameter_processors.A_log.dimex_param", "additional_scan.A_log"),
    ("x_proj.x_proj_B.dimex_weight", "additional_scan.B"),
    ("x_proj.x_proj_C.dimex_weight", "additional_scan.C"),
    ("selective_scan_fn.scan_state.ssmpeft_init_state", "initial_state"),
    ("selective_scan_fn.scan.ssmpeft_init_state", "initial_state"),
    ("conv1d.ssmpeft_conv_state", "conv_initial_state"),
    ("selective_scan_fn.state_to_y.ssmpeft_x_proc_C_prev", "previous_state"),
    ("selective_scan_fn.state_to_y.ssmpeft_", "state_to_output."),
    ("A_log_adapter.sdlora_grad", "A_log.warmup"),
    ("A_log_adapter.sdlora_adapter", "A_log.sdt"),
    ("x_proj.x_proj_B.sdlora_adapter", "x_proj.b.sdt"),
    ("x_proj.x_proj_C.sdlora_adapter", "x_proj.c.sdt"),
    // A trained bias takes the stored one's place; where there is none, see `added_bias`.
    (".bitfit_bias", ".bias"),
    ("backbone.embedding.", "backbone.embeddings."),
];

/// The trained offset, in the code of State-offset Tuning and in that of SSM-PEFT. The offsets on h and on y share it;
/// the configuration tells them apart.
const OFFSETS: [&str; 2] = ["parameter_processors.x_after_ssm.suffixtuning_bias", "selective_scan_fn.m.statetune_bias"];

/// A target in our words.
pub(in crate::foreign) fn target(name: &str) -> String {
    let part = MODULES.iter().find(|(theirs, _)| *theirs == name);
    part.map_or(name, |(_, ours)| ours).to_owned()
}

/// A tensor's name in our words, PEFT's prefixes and suffixes being gone. `offset` is our name for the trained offset.
pub(in crate::foreign) fn tensor_name(name: &str, offset: &str) -> String {
    if let Some(theirs) = OFFSETS.iter().find(|theirs| name.contains(*theirs)) {
        return name.replace(theirs, offset);
    }
    let found = TENSORS.iter().find(|(theirs, _)| name.contains(theirs));
    let mut name = found.map_or_else(|| name.to_owned(), |(theirs, ours)| name.replace(theirs, ours));
    for (theirs, ours) in MODULES {
        let Some((module, _)) = ours.split_once('.') else { continue };
        name = name.replace(&format!("mixer.{module}.{theirs}."), &format!("mixer.{ours}."));
    }
    name
}

/// The names that a stored tensor of ours has in the authors' model: itself, or those of its parts.
pub(super) fn stored_names(ours: &str) -> Vec<String> {
    let Some((path, "weight")) = ours.rsplit_once('.') else { return vec![ours.to_owned()] };
    let parts: Vec<String> = MODULES
        .iter()
        .filter(|(_, part)| part.split_once('.').is_some_and(|(module, _)| path.ends_with(&format!("mixer.{module}"))))
        .map(|(theirs, _)| format!("{path}.{theirs}.weight"))
        .collect();
    match parts.is_empty() {
        true => vec![ours.replace("backbone.embeddings.", "backbone.embedding.")],
        false => parts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_methods_tensors_have_our_names() {
        let mixer = "backbone.layers.1.mixer";
        for (theirs, ours) in [
            ("parameter_processors.x_after_ssm.suffixtuning_bias", "OFFSET"),
            ("parameter_processors.x_after_ssm.suffixtuning_bias.lora_A", "OFFSET.lora_A"),
            ("selective_scan_fn.m.statetune_bias.lora_B", "OFFSET.lora_B"),
            ("parameter_processors.A_log.dimex_param", "additional_scan.A_log"),
            ("x_proj.x_proj_B.dimex_weight", "additional_scan.B"),
            ("selective_scan_fn.scan_state.ssmpeft_init_state", "initial_state"),
            ("selective_scan_fn.scan.ssmpeft_init_state", "initial_state"),
            ("conv1d.ssmpeft_conv_state", "conv_initial_state"),
            ("selective_scan_fn.state_to_y.ssmpeft_scale_C", "state_to_output.scale_C"),
            ("selective_scan_fn.state_to_y.ssmpeft_bias", "state_to_output.bias"),
            ("selective_scan_fn.state_to_y.ssmpeft_x_proc_C_prev", "previous_state"),
            ("A_log_adapter.sdlora_adapter", "A_log.sdt"),
            ("x_proj.x_proj_C.sdlora_adapter", "x_proj.c.sdt"),
            ("conv1d.bitfit_bias", "conv1d.bias"),
            ("x_proj.x_proj_dt.lora_A", "x_proj.dt.lora_A"),
            ("in_proj.in_proj_z.lora_B", "in_proj.z.lora_B"),
            ("out_proj.lora_A", "out_proj.lora_A"),
        ] {
            assert_eq!(tensor_name(&format!("{mixer}.{theirs}"), "OFFSET"), format!("{mixer}.{ours}"));
        }
        assert_eq!(tensor_name("backbone.embedding.lora_A", ""), "backbone.embeddings.lora_A");
    }

    #[test]
    fn split_tensors_are_named_by_their_parts() {
        let parts = stored_names("backbone.layers.0.mixer.x_proj.weight");
        assert_eq!(parts.len(), 3);
        assert!(parts.contains(&"backbone.layers.0.mixer.x_proj.x_proj_dt.weight".to_owned()));
        assert_eq!(stored_names("backbone.layers.0.mixer.A_log"), ["backbone.layers.0.mixer.A_log"]);
        assert_eq!(stored_names("backbone.embeddings.weight"), ["backbone.embedding.weight"]);
        assert_eq!(stored_names("backbone.layers.0.norm.weight"), ["backbone.layers.0.norm.weight"]);
    }
}
