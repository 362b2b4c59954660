//! The modules of an unpacked kernel, in the order in which they can be loaded.

use super::Kernel;
use crate::programs;
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel module: its name and its uncompressed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The name as `lsmod` shows it, with underscores.
    pub name: String,
    /// The ELF object, ready for `finit_module`.
    pub content: Vec<u8>,
}

impl Kernel {
    /// The named modules and their dependencies, in the order in which they can be loaded.
    ///
    /// Modules that are built into this kernel are left out. The dependencies come from the modules themselves: only the
    /// installation of a kernel makes `modules.dep`.
    ///
    /// # Errors
    ///
    /// When this kernel has no such module, or one cannot be read.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut paths = BTreeMap::new();
        index(&self.modules, &mut paths)?;
        let builtin_list = self.modules.join("modules.builtin");
        let builtin = fs::read_to_string(&builtin_list)
            .with_context(|| format!("cannot read {}", builtin_list.display()))?;
        let builtin: Vec<String> =
            builtin.lines().filter_map(|line| module_name(Path::new(line.trim()))).collect();
        let mut loaded = Vec::new();
        for name in names {
            self.add(&normalized(name), &paths, &builtin, &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Whether this kernel has a module of this name, not built in.
    ///
    /// # Errors
    ///
    /// When its modules cannot be listed.
    pub fn has_module(&self, name: &str) -> Result<bool> {
        let mut paths = BTreeMap::new();
        index(&self.modules, &mut paths)?;
        Ok(paths.contains_key(&normalized(name)))
    }

    fn add(
        &self,
        name: &str,
        paths: &BTreeMap<String, PathBuf>,
        builtin: &[String],
        loaded: &mut Vec<Module>,
    ) -> Result<()> {
        if loaded.iter().any(|module| module.name == name) || builtin.iter().any(|module| module == name) {
            return Ok(());
        }
        let path = paths.get(name).ok_or_else(|| anyhow!("Linux {} has no module `{name}`", self.release))?;
        let content = read_module(path)?;
        for dependency in dependencies(&content).with_context(|| format!("in {}", path.display()))? {
            self.add(&dependency, paths, builtin, loaded)?;
        }
        loaded.push(Module { name: name.into(), content });
        Ok(())
    }
}

/// Name and path of every module below `directory`.
fn index(directory: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            index(&entry.path(), paths)?;
        } else if let Some(name) = module_name(&entry.path()) {
            paths.insert(name, entry.path());
        }
    }
    Ok(())
}

/// `virtio_rng` for `.../virtio-rng.ko.xz`; none for a file that is not a module.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    Some(normalized(name))
}

/// Files and dependency lists mix hyphens and underscores; the kernel itself knows only underscores.
fn normalized(name: &str) -> String {
    name.trim().replace('-', "_")
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new(programs::find("xz")?)
            .args(["--decompress", "--stdout"])
            .arg(path)
            .output()
            .context("cannot start xz")?;
        if !output.status.success() {
            bail!("cannot decompress {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        }
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The `depends=` line of a module's `.modinfo`: zero-terminated `key=value` strings, always written by modpost.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|window| window == KEY).map(|at| at + KEY.len());
    let rest =
        start.and_then(|start| module.get(start..)).ok_or_else(|| anyhow!("this is not a kernel module"))?;
    let value = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let value = std::str::from_utf8(value).context("the list of dependencies is not text")?;
    Ok(value.split(',').filter(|name| !name.is_empty()).map(normalized).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_from_the_module_itself() {
        let module = b"\x7fELF...license=GPL\0depends=virtio_ring,net-failover\0name=virtio_net\0";
        assert_eq!(dependencies(module).unwrap(), ["virtio_ring", "net_failover"]);
        assert!(dependencies(b"\x7fELF license=GPL\0depends=\0").unwrap().is_empty());
        assert!(dependencies(b"\x7fELF").is_err());
    }

    #[test]
    fn a_module_has_the_name_that_the_kernel_uses() {
        assert_eq!(module_name(Path::new("kernel/virtio-rng.ko.xz")).as_deref(), Some("virtio_rng"));
        assert_eq!(module_name(Path::new("kernel/failover.ko")).as_deref(), Some("failover"));
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}
