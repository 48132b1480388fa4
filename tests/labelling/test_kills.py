import random

from drmm.labelling.store import Store
from scripts.label_kills import killed, label_on, promise_first


def test_no_acknowledged_label_is_lost_by_a_kill(tmp_path):
    moments = random.Random(0)
    ends = [killed(label_on, tmp_path / "labels.sqlite", moments.uniform(0, 0.1)) for _ in range(8)]
    assert all(said <= known <= said + 1 for said, known in ends), ends
    with Store(tmp_path / "labels.sqlite") as store:
        assert store.version == ends[-1][1] > 8
    control = [killed(promise_first, tmp_path / "control.sqlite", moments.uniform(0, 0.1)) for _ in range(4)]
    assert any(said > known for said, known in control), control
