//! Where the folder of a process's memory cgroup is.
//!
//! Owns reading `/proc/PID/cgroup` (which groups a process is in, one per hierarchy) and
//! `/proc/self/mountinfo` (which part of a hierarchy can be seen where), and joining the two. Both
//! tell their paths relative to the reader's own cgroup namespace, so the join holds for
//! containers too, in which only their own part is mounted.

use std::path::{Component, Path, PathBuf};

use super::super::files::read_text;
use super::super::process::Process;
use super::{Group, Version};

/// Folders that are looked through for a process whose group's name can't be known.
const SEARCHED_MAX: usize = 4096;

/// The group that accounts for a process's memory.
///
/// # Errors
/// Why it can't be told.
pub fn find(process: &Process) -> Result<Group, String> {
    let path = process.path("cgroup");
    let groups = read_text(&path).map_err(|e| format!("can't read {}: {e}", path.display()))?;
    // Ours, as the folders have to be reached by us.
    let mounts = read_text(Path::new("/proc/self/mountinfo"))
        .map_err(|error| format!("can't read /proc/self/mountinfo: {error}"))?;
    let memberships = Membership::parse(&groups);
    if memberships.is_empty() {
        return Err("this kernel knows no cgroups".to_string());
    }
    let mounts = Mount::parse(&mounts);
    // The memory of a hybrid system is accounted for by version 1, where it is mounted.
    for version in [Version::V1, Version::V2] {
        for member in memberships.iter().filter(|member| member.version == version) {
            let seen = mounts.iter().filter(|mount| mount.version == version);
            let groups = seen.filter_map(|mount| {
                let folder = resolve(mount, &member.path, process.pid)?;
                accounting(version, &folder, &mount.point)
            });
            // The one mount that shows more of the groups above has more limits to show.
            if let Some(group) = groups.max_by_key(|group| {
                group.folder.components().count() - group.top.components().count()
            }) {
                return Ok(group);
            }
        }
    }
    Err(match memberships.iter().find(|member| member.path != "/") {
        Some(member) => {
            format!("no mounted cgroup folder with memory figures for '{}'", member.path)
        }
        None => "the process is in the root group, which has no figures".to_string(),
    })
}

/// A line of `/proc/PID/cgroup` that has to do with memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    version: Version,
    path: String,
}

impl Membership {
    fn parse(text: &str) -> Vec<Membership> {
        let parsed = text.lines().filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let version = match number {
                "0" if controllers.is_empty() => Version::V2,
                _ if controllers.split(',').any(|name| name == "memory") => Version::V1,
                _ => return None,
            };
            path.starts_with('/').then(|| Membership { version, path: path.to_string() })
        });
        parsed.collect()
    }
}

/// A part of a hierarchy, and where it can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group that is shown at the top.
    root: String,
    point: PathBuf,
}

impl Mount {
    fn parse(text: &str) -> Vec<Mount> {
        text.lines().filter_map(Mount::parse_line).collect()
    }

    /// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS..] - TYPE SOURCE SUPER`, proc(5).
    fn parse_line(line: &str) -> Option<Mount> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let version = match filesystem.next()? {
            "cgroup2" => Version::V2,
            "cgroup" => {
                let options = filesystem.nth(1)?;
                options.split(',').any(|option| option == "memory").then_some(Version::V1)?
            }
            _ => return None,
        };
        Some(Mount { version, root: unescape(root), point: unescape(point).into() })
    }
}

/// Blanks and the like stand as `\040` there.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where a group stands below a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// There.
    At(PathBuf),
    /// So many folders deeper, whose names lie outside of our cgroup namespace, and then there.
    Deeper(usize, PathBuf),
}

/// Where the group `path` is below a mount whose top is the group `root`.
fn place(root: &str, path: &str) -> Option<Place> {
    let root: Vec<&str> = root.split('/').filter(|part| !part.is_empty()).collect();
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let common = root.iter().zip(&path).take_while(|(root, path)| root == path).count();
    let above = &root[common..];
    let below = &path[common..];
    if above.iter().any(|part| *part != "..") || below.contains(&"..") {
        return None;
    }
    let below: PathBuf = below.iter().collect();
    Some(if above.is_empty() { Place::At(below) } else { Place::Deeper(above.len(), below) })
}

/// The folder of the group `path` below a mount; none where it can't be seen there.
fn resolve(mount: &Mount, path: &str, pid: u32) -> Option<PathBuf> {
    match place(&mount.root, path)? {
        Place::At(below) => {
            let folder = mount.point.join(below);
            folder.is_dir().then_some(folder)
        }
        Place::Deeper(levels, below) => search(&mount.point, levels, &below, pid),
    }
}

/// The folder which has the process among those so many levels deeper.
fn search(top: &Path, levels: usize, below: &Path, pid: u32) -> Option<PathBuf> {
    let mut folders = vec![top.to_path_buf()];
    let mut seen = 0;
    for _ in 0..levels {
        let mut deeper = Vec::new();
        for folder in &folders {
            let inner = std::fs::read_dir(folder).into_iter().flatten().flatten();
            for entry in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                seen += 1;
                if seen > SEARCHED_MAX {
                    return None;
                }
                deeper.push(entry.path());
            }
        }
        folders = deeper;
    }
    let mut folders = folders.into_iter().map(|folder| folder.join(below));
    folders.find(|folder| {
        let members = read_text(&folder.join("cgroup.procs")).unwrap_or_default();
        members.lines().any(|line| line.parse() == Ok(pid))
    })
}

/// The nearest group from `folder` up to `top` that has figures. In version 2 a group whose parent
/// doesn't pass the memory controller on has none, and the parent accounts for it.
fn accounting(version: Version, folder: &Path, top: &Path) -> Option<Group> {
    let figures = folder.ancestors().take_while(|folder| folder.starts_with(top));
    let mut figures = figures.filter(|folder| folder.join(version.usage_file()).exists());
    // Without the slash that a join with nothing leaves at the end.
    let folder: PathBuf = figures.next()?.components().collect();
    debug_assert!(folder.components().all(|part| part != Component::ParentDir));
    Some(Group { version, folder, top: top.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "9:name=systemd:/\n4:memory:/docker/ab\n1:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn memberships_of_all_systems() {
        let check = |text: &str, expected: &[(Version, &str)]| {
            let got = Membership::parse(text);
            let got: Vec<_> = got.iter().map(|one| (one.version, one.path.as_str())).collect();
            assert_eq!(got, expected, "{text}");
        };
        check(V1, &[(Version::V1, "/docker/ab"), (Version::V2, "/")]);
        check("0::/user.slice/a:b.scope\n", &[(Version::V2, "/user.slice/a:b.scope")]);
        check("7:hugetlb,memory:/x y\n", &[(Version::V1, "/x y")]);
        check("0::/../../other (deleted)", &[(Version::V2, "/../../other (deleted)")]);
        for nothing in ["", "0", "0:", "0::", "0::x", "4:memoryx:/", "x\ny:z", ":::", "\0:\0:/"] {
            check(nothing, &[]);
        }
    }

    #[test]
    fn mounts_of_all_systems() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:2 - cgroup cg rw,memory\n\
            36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            41 31 0:38 /../.. /sys/fs/cg\\040roup rw - cgroup2 cgroup2 rw,nsdelegate\n\
            42 1 0:3 /docker/ab /m rw - cgroup cgroup rw,hugetlb,memory\n\
            43 1 0:3 /docker/ab /m rw -\n44 1\n - cgroup2 x y\n45 1 0:3 / / rw - cgroup x";
        let mount = |version, root: &str, point: &str| Mount {
            version,
            root: root.to_string(),
            point: point.into(),
        };
        let expected = [
            mount(Version::V1, "/", "/sys/fs/cgroup/memory"),
            mount(Version::V2, "/../..", "/sys/fs/cg roup"),
            mount(Version::V1, "/docker/ab", "/m"),
        ];
        assert_eq!(Mount::parse(text), expected);
        for cut in 0..text.len() {
            Mount::parse(&text[..cut]);
        }
        assert_eq!(unescape("a\\040b\\134\\9z\\"), "a b\\\\9z\\");
    }

    #[test]
    fn places_below_a_mount() {
        let at = |path: &str| Some(Place::At(path.into()));
        let deeper = |levels, path: &str| Some(Place::Deeper(levels, path.into()));
        for (root, path, expected) in [
            // A host.
            ("/", "/system.slice/x.service", at("system.slice/x.service")),
            ("/", "/", at("")),
            // A container without a cgroup namespace: only its own group is mounted.
            ("/docker/ab", "/docker/ab", at("")),
            ("/docker/ab", "/docker/ab/inner", at("inner")),
            ("/docker/ab", "/docker/abc", None),
            ("/docker/ab", "/", None),
            // A cgroup namespace in which what was mounted before is still there.
            ("/..", "/", deeper(1, "")),
            ("/../..", "/inner", deeper(2, "inner")),
            ("/../..", "/../other", deeper(1, "other")),
            ("/..", "/../other", at("other")),
            // Another process, outside of what we see.
            ("/", "/../other", None),
            ("/..", "/../../other", None),
        ] {
            assert_eq!(place(root, path), expected, "{root} {path}");
        }
    }

    #[test]
    fn a_group_without_a_name_is_found_by_its_members() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, members) in
            [("", "1\n"), ("a/x", "17\n"), ("b/y", "4\n170\n"), ("b/y/inner", "18\n")]
        {
            let folder = dir.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("cgroup.procs"), members).unwrap();
        }
        let check = |levels, below: &str, pid, expected: Option<&str>| {
            let got = search(dir.path(), levels, Path::new(below), pid);
            assert_eq!(got, expected.map(|path| dir.path().join(path)), "{levels} {below} {pid}");
        };
        check(2, "", 170, Some("b/y/"));
        check(2, "", 17, Some("a/x/"));
        check(2, "inner", 18, Some("b/y/inner"));
        check(2, "", 18, None);
        check(1, "", 17, None);
        check(9, "", 17, None);
    }

    #[test]
    fn the_nearest_group_with_figures_accounts() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("slice/scope/inner");
        std::fs::create_dir_all(&inner).unwrap();
        assert!(accounting(Version::V2, &inner, dir.path()).is_none());
        std::fs::write(dir.path().join("slice/memory.current"), "1").unwrap();
        let group = accounting(Version::V2, &inner, dir.path()).unwrap();
        assert_eq!(group.folder, dir.path().join("slice"));
        assert!(accounting(Version::V1, &inner, dir.path()).is_none());
        assert!(accounting(Version::V2, &inner, &inner).is_none(), "not above the mount");
    }
}
