"""Studies, registries and command lines that cannot be meant: exit code 2 and one sentence, before any work is done."""

import pytest
import yaml

from metafluence import InputError, parse_comparison
from refusals import FIXES
from small_studies import SMALL, changed, command

HEAD = yaml.safe_dump(SMALL)


def refused(done, message: str) -> None:
    """Ended with 2 and with one sentence that holds the words, in their order."""
    assert done.returncode == 2, done.stdout + done.stderr
    text = " ".join(done.stderr.split())
    assert "Traceback" not in text
    assert text.startswith("Error: "), text
    assert FIXES.search(text), f"It does not say how to fix it: {text}"
    at = 0
    for word in message.split("..."):
        at = text.find(word, at)
        assert at >= 0, f"{word!r} of {message!r} is not in: {text}"


DEEP = "x: " + "[" * 60 + "]" * 60
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]" for before, name in zip("abcde", "bcdef", strict=True)
)
TEXTS = {
    "twice": (f"{HEAD}l2: 0.2\n", "study.yaml is not valid YAML: 'l2' stands here for the second time, first in line"),
    "twice-below": ("learner: {use: a, use: b}", "'use' stands here for the second time, first in line 1; keep one"),
    "list": ("- a\n- b\n", "study.yaml holds no study: a study is a mapping of fields...Write each as name: value"),
    "empty": ("", "study.yaml holds no study"),
    "null": ("~", "study.yaml holds no study"),
    "text": ("hello", "study.yaml holds no study"),
    "number": ("3", "study.yaml holds no study"),
    "deep": (DEEP, "study.yaml is not valid YAML: more than 40 levels of nesting (line 1"),
    "deeper": ("[" * 5000, "study.yaml is not valid YAML: more than 40 levels of nesting"),
    "bomb": (BOMB, "study.yaml is not valid YAML: more than 100000 values, with aliases written out"),
    "recursive": ("a: &a [*a]", "study.yaml is not valid YAML: an alias stands inside what it names (line 1"),
    "recursive-mapping": ("a: &a {b: *a}", "an alias stands inside what it names"),
    "no-anchor": ("a: *b", "study.yaml is not valid YAML: found undefined alias 'b' (line 1"),
    "number-key": ("3: a", "study.yaml is not valid YAML: the name '3' is no text, put it in quotes (line 1"),
    "truth-key": ("on: a", "the name 'on' is no text, put it in quotes"),
    "null-key": ("~: a", "the name '~' is no text, put it in quotes"),
    "date-key": ("2020-01-01: a", "the name '2020-01-01' is no text"),
    "list-key": ("[a, b]: c", "the list or mapping as a name is no text, put it in quotes"),
    "mapping-key": ("{a: b}: c", "the list or mapping as a name is no text, put it in quotes"),
    "key-below": ("learner: {use: mlp, 1: 2}", "the name '1' is no text"),
    "tab": ("a:\n\tb: c", "study.yaml is not valid YAML: found character '\\t' that cannot start any token (line 2"),
    "open": ("a: [1, 2", "study.yaml is not valid YAML: expected ',' or ']'"),
    "quote": ("a: 'b", "study.yaml is not valid YAML: found unexpected end of stream"),
    "two": ("a: 1\n---\nb: 2", "study.yaml is not valid YAML: but found another document"),
    "object": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor for the tag"),
    "date": ("a: 2020-13-45", "study.yaml is not valid YAML: month must be in 1..12"),
    "digits": (f"a: {'9' * 5000}", "study.yaml is not valid YAML: Exceeds the limit"),
    "nul": ("a: b\0c", "study.yaml is not valid YAML"),
    "binary": ("a: !!int x", "study.yaml is not valid YAML"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_yaml_that_is_no_study_is_refused(tmp_path, text, message):
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    refused(command(tmp_path, "run", "study.yaml"), message)


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_a_registry_is_read_by_the_same_rules(tmp_path, text, message):
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    done = command(tmp_path, "list", "--registry", "study.yaml")
    if text in ("", "~"):  # a registry may hold nothing
        assert (done.returncode, done.stderr) == (0, "")
        assert "nystrom" in done.stdout
    else:
        refused(
            done,
            message.replace("holds no study: a study is a mapping of fields", "holds no study").replace(
                "study.yaml holds no study", "study.yaml: The file is...a mapping of names is expected"
            ),
        )


FILES = {
    "latin": ("a: bäcker".encode("latin-1"), "study.yaml is not valid YAML: byte 4 is no UTF-8. Save it as UTF-8"),
    "utf-16": ("a: b".encode("utf-16"), "is no UTF-8. Save it as UTF-8"),
    "huge": (b"#" * (2**20 + 1), "study.yaml has 1048577 bytes; at most 1048576 are read. Name another file"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_files_that_are_no_text_are_refused(tmp_path, content, message):
    (tmp_path / "study.yaml").write_bytes(content)
    refused(command(tmp_path, "run", "study.yaml"), message)


def test_a_study_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "study.yaml").write_text("l2: 1", encoding="utf-8-sig")
    refused(
        command(tmp_path, "run", "study.yaml"), "the field 'name' is missing. Add it: a text of at most 100 letters"
    )


NUMBERS = {
    "l2-true": ({"l2": True}, "l2 is a yes or no, where a number is expected. Give a number"),
    "l2-infinite": ({"l2": float("inf")}, "l2 is inf, but a number above 0 and at most 1e15 is expected. Give one."),
    "l2-nan": ({"l2": float("nan")}, "l2 is nan, but a number above 0 and at most 1e15 is expected. Give one."),
    "l2-huge": ({"l2": 1e300}, "l2 is 1e+300, but a number above 0 and at most 1e15 is expected. Give one."),
    "l2-zero": ({"l2": 0}, "l2 is 0, but a number above 0 and at most 1e15 is expected. Give one."),
    "l2-negative": ({"l2": -1}, "l2 is -1, but a number above 0 and at most 1e15 is expected. Give one."),
    "l2-text": ({"l2": "much"}, "l2 is 'much', but a number above 0 and at most 1e15 is expected. Give one."),
    "l2-list": ({"l2": [1]}, "l2 is [1], but a number above 0 and at most 1e15 is expected. Give one."),
    "l2-null": ({"l2": None}, "l2 is None, but a number above 0 and at most 1e15 is expected. Give one."),
    "seed-huge": ({"seed": 10**30}, "seed is 1000000000..., but a whole number at least 0 and below 9.22337e18"),
    "seed-negative": ({"seed": -1}, "seed is -1, but a whole number at least 0 and below 9.22337e18"),
    "seed-true": ({"seed": True}, "seed is a yes or no, where a number is expected. Give a number"),
    "seed-fraction": ({"seed": 0.5}, "seed is 0.5, but a whole number at least 0 and below 9.22337e18"),
    "seeds-huge": ({"seeds": 2000000000}, "seeds is 2000000000...Give one seed or more, at most 10000"),
    "seeds-none": ({"seeds": 0}, "seeds is 0...Give one seed or more"),
    "seeds-true": ({"seeds": True}, "seeds is True...Give one seed or more"),
    "seeds-negative": ({"seeds": [0, -1]}, "seeds.1 is -1, but a whole number at least 0 and below 9.22337e18"),
    "seeds-truths": ({"seeds": [True, 2]}, "seeds.0 is a yes or no, where a number is expected. Give a number"),
    "memory": ({"memory_gib": -1}, "memory_gib is -1, but a number above 0 and at most 1e15"),
    "memory-infinite": ({"memory_gib": float("inf")}, "memory_gib is inf, but a number above 0 and at most 1e15"),
    "train-billion": ({"episodes": {"train": 10**9}}, "episodes.train is 1000000000, but a whole number at least 1"),
    "train-zero": ({"episodes": {"train": 0}}, "episodes.train is 0, but a whole number at least 1 and at most 1e6"),
    "train-true": ({"episodes": {"train": True}}, "episodes.train is a yes or no, where a number"),
    "way-zero": ({"episodes": {"way": 0}}, "episodes.way is 0, but a whole number at least 2 and at most 10000"),
    "way-billion": (
        {"episodes": {"way": 10**9}},
        "episodes.way is 1000000000, but a whole number at least 2 and at most",
    ),
    "way-one": ({"episodes": {"way": 1}}, "episodes.way is 1, but a whole number at least 2 and at most 10000"),
    "shot-negative": ({"episodes": {"shot": -1}}, "episodes.shot is -1, but a whole number at least 1"),
    "query-zero": ({"episodes": {"query": 0}}, "episodes.query is 0, but a whole number at least 1"),
    "shares-nan": (
        {"episodes": {"shares": [float("nan"), 0.5, 0.5]}},
        "episodes.shares.0 is nan, but a number at least 0 and at most 1",
    ),
    "shares-sum": ({"episodes": {"shares": [0.1, 0.1, 0.1]}}, "episodes.shares are (0.1, 0.1, 0.1); they must add up"),
    "shares-short": (
        {"episodes": {"shares": [1]}},
        "episodes.shares is [1], but a list of 3, each a number at least 0 and at most 1",
    ),
    "split": (
        {"episodes": {"split": "klasses"}},
        "episodes.split is 'klasses', but 'classes' or 'instances' or 'published'",
    ),
    "episodes-number": ({"episodes": 3}, "episodes is 3, but a mapping with any of train, validation"),
    "fraction": ({"corruption": {"fraction": 2}}, "corruption.fraction is 2, but a number at least 0 and at most 1"),
    "fraction-nan": (
        {"corruption": {"fraction": float("nan")}},
        "corruption.fraction is nan, but a number at least 0 and at most 1",
    ),
    "remove": ({"remove": 2}, "remove is 2, but a number above 0 and below 1 is expected. Give one."),
    "remove-zero": ({"remove": [0.0]}, "remove.0 is 0.0, but a number above 0 and below 1 is expected. Give one."),
    "truth-items": ({"truth": {"items": 1}}, "truth.items is 1, but a whole number at least 2 and at most 1e9"),
    "truth-subsets": ({"truth": {"subsets": -1}}, "truth.subsets is -1, but a whole number at least 0"),
    "damping": ({"damping": {"values": [-1.0]}}, "damping.values.0 is -1.0, but a number at least 0"),
    "damping-nan": ({"damping": {"values": [float("nan")]}}, "damping.values.0 is nan, but a number at least 0"),
    "dtype": ({"dtype": "float16"}, "dtype is 'float16', but 'float64' or 'float32'"),
    "device": ({"device": "tpu"}, "device is 'tpu'. Give cpu, cuda"),
    "levels": ({"levels": ["tasks"]}, "levels.0 is 'tasks', but 'task' or 'support' or 'query'"),
    "no-levels": ({"levels": []}, "levels is [], but a list of one or more, each 'task' or 'support' or 'query'"),
    "no-methods": ({"methods": []}, "methods is [], but a list of one or more"),
    "methods-text": ({"methods": "task-if"}, "methods is 'task-if', but a list of one or more"),
    "name": ({"name": "../x"}, "name is '../x', but a text"),
    "name-number": ({"name": 3}, "name is 3, but a text"),
    "name-empty": ({"name": ""}, "name is '', but a text"),
    "sizes": ({"sizes": 3}, "sizes is 3. Give each size a name and its changes"),
    "sizes-list": ({"sizes": ["a"]}, "sizes is ['a']. Give each size a name and its changes"),
    "size-number": ({"sizes": {"small": 3}}, "sizes is {'small': 3}. Give each size a name and its changes"),
    "vary": ({"vary": 3}, "vary is 3. Give the names of what is varied, each with a list of values."),
    "vary-value": (
        {"vary": {"l2": 3}},
        "vary is {'l2': 3}. Give vary.l2 a list of values, or labels with the changes of each.",
    ),
    "extra": ({"lerner": "mlp"}, "there is no field 'lerner'. Did you mean 'learner'?"),
    "penalty": (
        {"learner": {"use": "logistic-head", "backbone": "mlp", "penalty": "hard"}},
        "penalty is 'hard', but a number...is expected",
    ),
    "penalty-true": (
        {"learner": {"use": "logistic-head", "backbone": "mlp", "penalty": True}},
        "penalty is True, but a number above 0",
    ),
    "activation": (
        {"learner": {"use": "logistic-head", "backbone": {"use": "mlp", "activation": "relo"}}},
        "activation is 'relo', but 'tanh' or 'softplus'...is expected...Give one",
    ),
    "norm": (
        {"learner": {"use": "logistic-head", "backbone": {"use": "conv4", "norm": "layer"}}},
        "norm is 'layer', but 'group' or 'batch' or 'none' is expected...Give one",
    ),
    "pooling": (
        {"learner": {"use": "logistic-head", "backbone": {"use": "resnet12", "pooling": "min"}}},
        "pooling is 'min', but 'average' or 'max' is expected...Give one",
    ),
    "ways-billion": (
        {"learner": {"use": "logistic-head", "backbone": "mlp", "ways": 10**9}},
        "ways is 1000000000, but a whole number at least 1 and at most 10000 or none is expected...Give one",
    ),
    "trainer-nan": ({"trainer": {"use": "newton", "tolerance": float("nan")}}, "tolerance is nan, but a number"),
    "trainer-steps": ({"trainer": {"use": "newton", "max_steps": -1}}, "max_steps is -1, but a whole number"),
    "executor": ({"executor": {"use": "processes", "jobs": 0}}, "jobs is 0, but a whole number at least 1"),
    "method": ({"methods": [{"use": "task-if", "damping": -1}]}, "damping is -1, but a number at least 0"),
    "method-steps": ({"methods": [{"use": "grad-ascent", "steps": -1}]}, "steps is -1, but a whole number at least 1"),
    "method-seed": (
        {"methods": [{"use": "trak", "seed": 10**30}]},
        "seed is 1000000000..., but a whole number at least 0",
    ),
    "dataset": ({"dataset": {"use": "mnist", "size": 29}}, "size is 29, but a whole number at least 1 and at most 28"),
    "dataset-name": ({"dataset": "digit"}, "Unknown dataset 'digit'. Did you mean 'digits'"),
    "method-levels": (
        {"methods": [{"use": "loss", "levels": 3}]},
        "loss is to run at level 3, which...Give one of these",
    ),
    "name-long": ({"name": "a" * 101}, "but a text of at most 100 letters"),
    "certificate": ({"certificate": 1}, "certificate is 1, but true or false is expected. Give one"),
    "sizes-zero": ({"sizes": 0}, "sizes is 0. Give each size a name and its changes"),
    "published-share": (
        {"published": {"source": "x", "rows": {"retrain": {"accuracy": 31}}}},
        "published.rows.retrain.accuracy is 31, but a number at least 0 and at most 1 or none is expected",
    ),
    "spec-number": ({"learner": 3}, "learner is 3, but a name, or a mapping with use: NAME and its parameters,"),
    "spec-list": ({"learner": []}, "learner is [], but a name, or a mapping with use: NAME and its parameters,"),
}


@pytest.mark.parametrize(("given", "message"), NUMBERS.values(), ids=NUMBERS)
def test_values_that_cannot_be_meant_are_refused(tmp_path, given, message):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(changed(**given)), encoding="utf-8")
    done = command(tmp_path, "run", "study.yaml")
    refused(done, message)
    assert "sampling tasks" not in done.stdout, "nothing is drawn"
    assert not list(tmp_path.glob("results/**/*.safetensors"))


WORDS = {
    "no-file": (["run", "nothing.yaml"], "There is no study file nothing.yaml"),
    "near": (["run", "studi.yaml"], "There is no study file studi.yaml. Did you mean 'study.yaml'?"),
    "folder": (["run", "folder"], "folder is a folder. Name the YAML file in it"),
    "link": (["run", "loop"], "There is no study file loop"),
    "out-file": (["run", "study.yaml", "--out", "file"], "--out is file, but ...file is a file. Name a folder"),
    "out-below": (
        ["run", "study.yaml", "--out", "file/a/b"],
        "--out is file/a/b, but ...file is a file. Name a folder",
    ),
    "out-loop": (["run", "study.yaml", "--out", "loop"], "--out is loop, but ...loop is a link that leads nowhere"),
    "out-loop-below": (["run", "study.yaml", "--out", "loop/a"], "--out is loop/a, but"),
    "report-out": (["report", "folder", "--out", "file"], "--out is file, but"),
    "picture": (["data", "show", "digits", "--picture", "folder"], "--picture is folder, which is a folder. Name"),
    "picture-below": (["data", "show", "digits", "--picture", "file/a.png"], "--picture is ...file is a file"),
    "set-nothing": (["run", "study.yaml", "--set", "l2"], "'l2' sets nothing. Write key=value"),
    "set-empty": (["run", "study.yaml", "--set", "=3"], "'=3' sets nothing. Write key=value"),
    "set-yaml": (["run", "study.yaml", "--set", "l2=[1"], "The value of 'l2', '[1', is not valid YAML"),
    "set-twice": (["run", "study.yaml", "--set", "learner={use: a, use: b}"], "'use' stands here for the second time"),
    "set-bomb": (["run", "study.yaml", "--set", "a=&a [*a]"], "an alias stands inside what it names"),
    "set-deep": (["run", "study.yaml", "--set", f"a={'[' * 99}"], "more than 40 levels of nesting"),
    "set-seeds": (["run", "study.yaml", "--set", "seeds=2000000000"], "seeds is 2000000000...Give one seed or more"),
    "set-place": (["run", "study.yaml", "--set", "methods.9=a"], "'9' is no place in a list of 3"),
    "set-below": (["run", "study.yaml", "--set", "l2.a=3"], "'l2.a' cannot be set: l2 is 1.0 and has no parts"),
    "set-l2": (
        ["run", "study.yaml", "--set", "l2=-1e-10"],
        "l2 is -1e-10, but a number above 0 and at most 1e15 is expected. Give one.",
    ),
    "size": (["run", "study.yaml", "--size", "big"], "has no size 'big'. Sizes: none"),
    "registry": (["list", "--registry", "none.yaml"], "The registry none.yaml cannot be read: No such file"),
    "registry-folder": (["list", "--registry", "folder"], "The registry folder is a folder"),
    "kind": (["list", "solvers"], "Unknown kind of component 'solvers'"),
    "show-kind": (["show", "solvers", "cg"], "Unknown kind of component 'solvers'"),
    "show-name": (["show", "solver", "cgg"], "Unknown solver 'cgg'. Did you mean 'cg'"),
    "sweep-infinite": (["sweep", "damping", "study.yaml", "--to", "inf"], "from 0.0001 to inf in 13 points. Give"),
    "sweep-points": (["sweep", "damping", "study.yaml", "--points", "1000000"], "in 1000000 points. Give a positive"),
    "data-set": (["data", "show", "digits", "--set", "size"], "--set is 'size'; write --set KEY=VALUE"),
    "data-value": (["data", "show", "mnist", "--set", "size=0"], "size is 0, but a whole number at least 1"),
    "data-name": (["data", "show", "digit"], "Unknown dataset 'digit'. Did you mean 'digits'"),
    "data-fetch": (["data", "fetch", "digits"], "There is nothing to download for digits"),
}


@pytest.mark.parametrize(("words", "message"), WORDS.values(), ids=WORDS)
def test_command_lines_that_cannot_be_meant_are_refused(tmp_path, words, message):
    (tmp_path / "study.yaml").write_text(HEAD, encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    refused(command(tmp_path, *words), message)


@pytest.mark.parametrize("seed", ["-1", str(10**30), "x"])
def test_a_seed_of_a_picture_is_what_torch_takes(tmp_path, seed):
    done = command(tmp_path, "data", "show", "digits", "--picture", "a.png", "--seed", seed)
    assert done.returncode == 2
    assert "Invalid value for '--seed'" in done.stderr


def test_a_mapping_in_python_has_texts_for_names():
    with pytest.raises(InputError, match=r"has the field 3, which is no text. Put it in quotes"):
        parse_comparison({**SMALL, 3: 1})


def test_numbers_in_yaml_need_no_point():
    assert parse_comparison(yaml.safe_load(HEAD), changes={"l2": 1e-10}).variations[0].config.l2 == 1e-10
