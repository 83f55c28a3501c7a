//! The files of `deploy/`, checked by the programs that read them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tests::server::program;

use crate::proxies::front::{Kind, deploy, installed, is_installed, nginx_file, program as debian};

/// Runs a command that must succeed. Returns its standard output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {output:#?}");
    String::from_utf8(output.stdout).unwrap()
}

fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"))
}

/// Returns the effective configuration that the program reports for these variables and this file.
#[track_caller]
fn effective(environment: &[(String, String)], file: Option<&Path>) -> toml::Table {
    let mut command = Command::new(program());
    command
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["config", "--effective"]);
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    run(&mut command).parse().unwrap()
}

/// Returns the sum of `drain_delay` and `drain_grace` in whole seconds.
fn drain(config: &toml::Table) -> u64 {
    let seconds = |name: &str| {
        let text = config["http"][name].as_str().unwrap();
        text.strip_suffix('s').unwrap().parse::<u64>().unwrap()
    };
    seconds("drain_delay") + seconds("drain_grace")
}

/// Converts YAML documents to JSON, with the YAML library that comes with the checker of the
/// manifests.
fn json(yaml: &Path) -> Vec<Value> {
    let script =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let python = installed("python");
    let text = run(Command::new(python).args(["-c", script]).arg(yaml));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn proxies_take_their_configurations() {
    let directory = tempfile::tempdir().unwrap();
    run(debian("haproxy")
        .args(["-c", "-f"])
        .arg(Kind::Haproxy.file()));
    run(debian("caddy")
        .args(["validate", "--adapter", "caddyfile", "--config"])
        .arg(Kind::Caddy.file())
        .env("HOME", directory.path()));
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let file = nginx_file(nowhere, [nowhere; 2], directory.path());
    let global = format!("pid {}/pid;", directory.path().display());
    run(debian("nginx")
        .args(["-t", "-e", "stderr", "-g", &global, "-c"])
        .arg(file));
}

#[test]
fn envoy_takes_its_configuration() {
    if is_installed("envoy_takes_its_configuration", "envoy") {
        let file = Kind::Envoy.file();
        run(Command::new(installed("envoy"))
            .args(["--mode", "validate", "--config-path"])
            .arg(file));
    }
}

#[test]
fn systemd_takes_the_units_and_finds_little_exposed() {
    let directory = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let text = std::fs::read_to_string(deploy("systemd").join(name)).unwrap();
        // systemd checks that the program exists.
        let text = text.replace("/usr/bin/longhaul", program().to_str().unwrap());
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let (service, socket) = (copy("longhaul.service"), copy("longhaul.socket"));
    let verified = output(
        debian("systemd-analyze")
            .arg("verify")
            .args([&service, &socket]),
    );
    // Unknown settings are warnings.
    assert!(verified.status.success(), "{verified:#?}");
    assert!(verified.stderr.is_empty(), "{verified:#?}");
    // Out of 100; a service without any hardening scores 96.
    run(debian("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&service));
}

#[test]
fn kubernetes_takes_the_manifests() {
    let test = "kubernetes_takes_the_manifests";
    if !is_installed(test, "kubernetes-validate") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let built = directory.path().join("built.yaml");
    let manifests = run(debian("kubectl").arg("kustomize").arg(deploy("kubernetes")));
    std::fs::write(&built, manifests).unwrap();
    run(Command::new(installed("kubernetes-validate"))
        .args(["--strict", "--quiet"])
        .arg(&built)
        .arg(deploy("kubernetes/secret.example.yaml")));

    // The grace period of the pod must be as long as the server may take to end.
    let documents = json(&built);
    let deployment = documents.iter().find(|it| it["kind"] == "Deployment");
    let grace = &deployment.unwrap()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    let secrets = json(&deploy("kubernetes/secret.example.yaml"));
    let environment: Vec<_> = secrets[0]["stringData"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    let config = effective(&environment, Some(&deploy("kubernetes/longhaul.toml")));
    assert!(grace.as_u64().unwrap() > drain(&config), "{grace}");
    assert_eq!(config["metadata"]["type"].as_str(), Some("postgres"));
    assert_eq!(config["blobs"]["type"].as_str(), Some("s3"));
}

#[test]
fn compose_takes_its_file() {
    let test = "compose_takes_its_file";
    if !is_installed(test, "python") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let built = directory.path().join("built.yaml");
    let file = deploy("../docker-compose.yml");
    let compose = || {
        let mut command = debian("docker-compose");
        command.arg("-f").arg(&file).arg("config");
        command
    };
    // The nodes listen beyond loopback, so the stack does not start without a key.
    for keyless in [None, Some("")] {
        let mut command = compose();
        if let Some(keys) = keyless {
            command.env("LONGHAUL_KEYS", keys);
        }
        let refused = output(&mut command);
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("longhaul hash-key NAME"), "{said}");
    }
    let key = r#"[{ name = "me", sha256 = "bb1a6947bdeeb634d53904aa13980b98118db9f090b287479ec00f71c1176a44" }]"#;
    let text = run(compose().env("LONGHAUL_KEYS", key));
    std::fs::write(&built, text).unwrap();

    let services = &json(&built)[0]["services"];
    for node in ["longhaul-1", "longhaul-2"] {
        let service = &services[node];
        let environment: Vec<_> = service["environment"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        let config = effective(&environment, None);
        assert_eq!(config["access"]["keys"].as_array().unwrap().len(), 1);
        assert_eq!(config["access"]["open"].as_bool(), Some(false));
        assert_eq!(config["metadata"]["type"].as_str(), Some("postgres"));
        assert_eq!(config["blobs"]["type"].as_str(), Some("s3"));
        let grace = service["stop_grace_period"].as_str().unwrap();
        let grace: u64 = grace.strip_suffix('s').unwrap().parse().unwrap();
        assert!(grace > drain(&config));
    }
}

#[test]
fn the_image_is_built_as_hadolint_wants_it_by_the_compiler_of_the_tests() {
    let test = "the_image_is_built_as_hadolint_wants_it_by_the_compiler_of_the_tests";
    if is_installed(test, "hadolint") {
        run(Command::new(installed("hadolint")).arg(deploy("Dockerfile")));
    }
    let dockerfile = std::fs::read_to_string(deploy("Dockerfile")).unwrap();
    let toolchain = std::fs::read_to_string(deploy("../rust-toolchain.toml")).unwrap();
    let toolchain: toml::Table = toolchain.parse().unwrap();
    let version = toolchain["toolchain"]["channel"].as_str().unwrap();
    let image = format!("FROM rust:{version}-alpine AS build");
    assert!(dockerfile.contains(&image), "not {image}");
}

/// Covers both forms of the example: one machine, and the many nodes in its comments.
#[test]
fn the_program_takes_the_example_of_its_configuration() {
    let example = deploy("server.example.toml");
    let config = effective(&[], Some(&example));
    assert_eq!(config["data"].as_str(), Some("/var/lib/longhaul"));

    let text = std::fs::read_to_string(&example).unwrap();
    let (one, many) = text.split_once("# One machine:").unwrap();
    let (_, many) = many.split_once("role.\n").unwrap();
    let many: Vec<_> = many
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .map(|line| line.trim_end_matches('#'))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("many.toml");
    std::fs::write(&file, format!("{one}\n{}", many.join("\n"))).unwrap();
    let config = effective(&[], Some(&file));
    assert_eq!(config["metadata"]["type"].as_str(), Some("postgres"));
    assert_eq!(config["blobs"]["type"].as_str(), Some("s3"));
}
