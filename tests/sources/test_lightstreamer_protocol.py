"""TLCP lines: examples of the specification typed by hand, properties, and nothing breaks the reader."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketd.errors import InvalidInput, MalformedMessage
from marketd.sources.lightstreamer import LightstreamerConfig
from marketd.sources.lightstreamer.protocol import decode_values, encode, read_line
from marketd.sources.lightstreamer.session import (
    Cleared,
    Malformed,
    Missed,
    Refused,
    Session,
    SnapshotEnded,
    Subscribed,
    Subscription,
    Unsubscribed,
    Update,
)
from marketd.testing.providers.lightstreamer import _written

# Of an item in the way of the specification's examples: each line, and what it makes of the fields before.
SPECIFIED = [
    ("20:00:33|3.04|0.0|2.41|#|#|$", ["20:00:33", "3.04", "0.0", "2.41", None, None, ""]),
    ("20:00:54|3.07|0.98||||Suspended", ["20:00:54", "3.07", "0.98", "2.41", None, None, "Suspended"]),
    ("20:04:16|3.02|-0.65||||$", ["20:04:16", "3.02", "-0.65", "2.41", None, None, ""]),
    ("20:06:10|3.05|0.32|^4", ["20:06:10", "3.05", "0.32", "2.41", None, None, ""]),
    ("20:06:49|^2|2.42|1.5||", ["20:06:49", "3.05", "0.32", "2.42", "1.5", None, ""]),
]


def test_values_are_understood_as_specified():
    before = None
    for text, expected in SPECIFIED:
        before = decode_values(text, before, 7)
        assert before == expected


@pytest.mark.parametrize(
    ("text", "before", "expected"),
    [
        ("#|$|10.5|aa%7Cbb|%23x", None, [None, "", "10.5", "aa|bb", "#x"]),
        ("1||10.6|^2", [None, "", "10.5", "aa|bb", "#x"], ["1", "", "10.6", "aa|bb", "#x"]),
        ("^2|10.7||", ["1", "", "10.6", "aa|bb", "#x"], ["1", "", "10.7", "aa|bb", "#x"]),
        ("2|#|10.8|caff%C3%A8, ok|%5Ecaret", ["1", "", "", "", ""], ["2", None, "10.8", "caffè, ok", "^caret"]),
        ("a#b|a$b|a^b|%24|1+1", None, ["a#b", "a$b", "a^b", "$", "1+1"]),
        ("^5", ["a", None, "", "b", "c"], ["a", None, "", "b", "c"]),
        ("^1|^1|x|^2", ["a", "b", "c", "d", "e"], ["a", "b", "x", "d", "e"]),
        ("^TfbXf|||^TabZb|#", ["hello world", "b", "c", "d", "e"], ["helloX", "b", "c", "Z", None]),
    ],
)
def test_values_as_the_wire_has_them(text, before, expected):
    assert decode_values(text, before, 5) == expected


@pytest.mark.parametrize(
    ("old", "difference", "new"),
    [
        ("foobar", "bdzapcd", "fzapbar"),
        ("foobar", "d", "foo"),
        ("foobar", "adzapag", "zapfoobar"),
        ("foobar", "cacc", "foar"),
        ("hello world", "fbXf", "helloX"),
        ("x" * 40, "Bd", "x" * 29),
        ("x" * 40, "Ad", "xxx"),
    ],
)
def test_a_difference_is_copied_added_and_deleted(old, difference, new):
    assert decode_values(f"^T{difference}", [old], 1) == [new]


@pytest.mark.parametrize(
    ("text", "before", "count"),
    [
        ("a|b", None, 3),
        ("a|b|c|d", ["1", "2", "3"], 3),
        ("a||c", None, 3),
        ("^2|c", None, 3),
        ("^4", ["1", "2", "3"], 3),
        ("^0|a|b|c", ["1", "2", "3"], 3),
        ("^", ["1"], 1),
        ("^-1", ["1"], 1),
        ("^" + "9" * 5_000, ["1"], 1),
        ("^²", ["1"], 1),
        ('^P[{"op":"remove","path":"/a"}]', ["{}"], 1),
        ("^Tz", ["short"], 1),
        ("^Tab", ["short"], 1),
        ("^TA", ["short"], 1),
        ("^T" + "Z" * 10_000, ["short"], 1),
        ("^Tf1", ["short"], 1),
        ("^Ta", [None], 1),
        ("^Ta", None, 1),
        ("%FF", None, 1),
    ],
)
def test_what_breaks_the_rules_is_malformed(text, before, count):
    with pytest.raises(MalformedMessage):
        decode_values(text, before, count)


def test_tlcp_diff_is_what_the_official_client_makes_of_it():
    client = pytest.importorskip("lightstreamer.client.ls_python_client_haxe")
    referee = client.com_lightstreamer_internal_patch__Diff_DiffPatch_Impl_

    @given(st.text("abcXYZ é", max_size=40), st.text("abcdefABz", max_size=14))
    @example("foobar", "bdzapcd")
    def compared(old, difference):
        try:
            ours = decode_values(f"^T{difference}", [old], 1)[0]
        except MalformedMessage:
            return  # the official client reads beyond the end, and says nothing
        assert ours == referee.apply(referee._new(difference), old)

    compared()


_VALUES = st.lists(
    st.none() | st.text(max_size=8) | st.sampled_from(["#", "$", "^", "^3", "|", "%", "a|b", "1.5"]),
    min_size=4,
    max_size=4,
)


@given(st.none() | _VALUES, _VALUES)
def test_what_a_server_writes_is_read_back(before, after):
    assert decode_values(_written(after, before), before, 4) == after


@given(st.text("|#$^%T123aZ\n\r,é ", max_size=30) | st.text(max_size=20), st.none() | _VALUES)
def test_no_value_list_breaks_the_reader(text, before):
    with contextlib.suppress(MalformedMessage):
        values = decode_values(text, before, 4)
        assert len(values) == 4
        assert all(value is None or isinstance(value, str) for value in values)


@given(
    st.builds(
        "{},{}".format,
        st.sampled_from(
            ["CONOK", "SUBOK", "LOOP", "END", "REQERR", "REQOK", "PROG", "EOS", "OV", "U", "CONERR", "XYZ", ""]
        ),
        st.text("0123456789,-%|^*#S", max_size=20),
    )
    | st.text(max_size=30)
)
def test_no_line_breaks_the_reader(line):
    with contextlib.suppress(MalformedMessage):
        tag, arguments = read_line(line)
        assert isinstance(tag, str)
        assert isinstance(arguments, tuple)


def test_lines_are_split_where_the_tag_says():
    assert read_line("CONOK,S1d7c802482843a26T5626355,50000,5000,*") == (
        "CONOK", ("S1d7c802482843a26T5626355", "50000", "5000", "*"),
    )  # fmt: skip
    assert read_line("REQERR,7,-1,Insufficient permissions, sorry") == (
        "REQERR", ("7", "-1", "Insufficient permissions, sorry"),
    )  # fmt: skip
    assert read_line("CONERR,65,Unsupported%20version%3A 2.5.0")[1][1] == "Unsupported version: 2.5.0"
    assert read_line("PROBE") == ("PROBE", ())
    assert read_line("REQOK") == ("REQOK", ())
    assert read_line("SOMETHING,new,1") == ("SOMETHING", ())
    with pytest.raises(MalformedMessage, match="2 arguments, not 3"):
        read_line("SUBOK,1,2")


def test_parameters_are_percent_encoded():
    line = encode({"LS_cid": "mgQkwtwdysogQz2BJ4Ji kOj2Bg", "LS_password": "CST-a+b|XST-d=&f", "LS_polling": "true"})
    assert line == "LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_password=CST-a%2Bb%7CXST-d%3D%26f&LS_polling=true"


# Sessions

FIELDS = ("BID", "OFFER", "TIME")


def opened(*subscriptions, renewals=3):
    session = Session(renewals=renewals)
    handles = [session.subscribe(subscription) for subscription in subscriptions]
    session.create_parameters("u", "p", None)
    assert session.receive("CONOK,S1,50000,5000,*\r\n") == []
    return session, handles


def test_the_published_opening_exchange():
    session, (handle,) = opened(Subscription(items=("item1",), fields=("stock_name", "time", "last_price")))
    (add,) = session.requests()
    assert add == {
        "LS_reqId": 1,
        "LS_op": "add",
        "LS_subId": 1,
        "LS_mode": "MERGE",
        "LS_group": "item1",
        "LS_schema": "stock_name time last_price",
        "LS_snapshot": "true",
    }
    assert session.requests() == []
    text = (
        "SERVNAME,Lightstreamer HTTP Server\r\nCLIENTIP,0:0:0:0:0:0:0:1\r\nNOOP,sending placeholder data\r\n"
        "CONS,unlimited\r\nPROBE\r\nSUBOK,1,1,3\r\nCONF,1,unlimited,filtered\r\nU,1,1,Anduct|11:02:33|3.11\r\n"
        "U,1,1,|11:03:39|\r\nSYNC,102\r\nU,1,1,|11:04:29|3.09\r\nUNSUB,1\r\nEND,31,Destroy invoked by client\r\n"
    )
    assert session.receive(text) == [
        Subscribed(handle),
        Update(handle, 0, ["Anduct", "11:02:33", "3.11"], True),
        Update(handle, 0, ["Anduct", "11:03:39", "3.11"], False),
        Update(handle, 0, ["Anduct", "11:04:29", "3.09"], False),
        Unsubscribed(handle),
    ]
    assert (session.id, session.keepalive_s, session.received) == ("S1", 5.0, 6)
    assert (session.ended.code, session.ended.reason) == (31, "Destroy invoked by client")
    assert not session.unknown


def test_a_snapshot_is_the_first_update_or_what_comes_before_its_end():
    merge = Subscription(items=("m",), fields=("a",))
    distinct = Subscription(items=("d", "e"), fields=("a",), mode="DISTINCT")
    raw = Subscription(items=("r",), fields=("a",), mode="RAW")
    session, (m, d, r) = opened(merge, distinct, raw)
    session.requests()
    said = session.receive(
        "U,1,1,1\r\nU,1,1,2\r\nU,2,1,1\r\nU,2,1,2\r\nEOS,2,1\r\nU,2,1,3\r\nU,2,2,1\r\nU,3,1,1\r\nCS,2,2\r\nOV,2,2,17\r\n"
    )
    assert [(e.handle, e.item, e.values[0], e.snapshot) for e in said if isinstance(e, Update)] == [
        (m, 0, "1", True), (m, 0, "2", False), (d, 0, "1", True), (d, 0, "2", True), (d, 0, "3", False),
        (d, 1, "1", True), (r, 0, "1", False),
    ]  # fmt: skip
    assert [e for e in said if not isinstance(e, Update)] == [SnapshotEnded(d, 0), Cleared(d, 1), Missed(d, 1, 17)]


def test_recovery_skips_what_came_already():
    session, (handle,) = opened(Subscription(items=("m",), fields=("a", "b")))
    session.requests()
    session.receive("SUBOK,1,1,2\r\nCONF,1,unlimited,filtered\r\nU,1,1,1|x\r\nU,1,1,2|\r\n")
    session.interrupted()
    assert session.bind_parameters(recover=True) == {"LS_session": "S1", "LS_send_sync": "false", "LS_recovery_from": 4}
    said = session.receive("CONOK,S1,50000,5000,*\r\nPROG,2\r\nU,1,1,1|x\r\nU,1,1,2|\r\nU,1,1,3|\r\n")
    assert said == [Update(handle, 0, ["3", "x"], False)]
    assert session.received == 5
    assert session.requests() == []


@pytest.mark.parametrize("text", ["PROG,9\r\n", "U,1,1,1|x\r\n", "PROG,2\r\nPROG,2\r\n"])
def test_a_recovery_that_does_not_add_up_ends_the_session(text):
    session, _ = opened(Subscription(items=("m",), fields=("a", "b")))
    session.requests()
    session.receive("SUBOK,1,1,2\r\nU,1,1,1|x\r\n")
    session.interrupted()
    session.bind_parameters(recover=True)
    session.receive("CONOK,S1,50000,5000,*\r\n" + text)
    assert session.ended is not None


def test_what_was_asked_and_not_answered_is_asked_anew_after_an_interruption():
    answered, not_yet = Subscription(items=("m",), fields=("a",)), Subscription(items=("n",), fields=("a",))
    session, (first, second) = opened(answered, not_yet)
    assert [r["LS_subId"] for r in session.requests()] == [1, 2]
    session.receive("SUBOK,1,1,1\r\n")
    session.interrupted()
    session.bind_parameters(recover=True)
    said = session.receive("CONOK,S1,50000,5000,*\r\nPROG,1\r\nSUBOK,2,1,1\r\nU,2,1,old\r\n")
    assert said == []  # it had arrived after all, and is given back
    assert [(r["LS_op"], r["LS_subId"]) for r in session.requests()] == [("delete", 2), ("add", 3)]
    assert session.receive("REQERR,3,19,not found\r\nSUBOK,3,1,1\r\nU,3,1,new\r\nU,1,1,x\r\n") == [
        Subscribed(second), Update(second, 0, ["new"], True), Update(first, 0, ["x"], True),
    ]  # fmt: skip


def test_a_refusal_is_of_one_subscription_and_is_final():
    session, (bad, good) = opened(
        Subscription(items=("bad",), fields=("a",)), Subscription(items=("good",), fields=("a",))
    )
    session.requests()
    said = session.receive("REQERR,1,-1,Insufficient permissions\r\nSUBOK,2,1,1\r\n")
    assert said == [Refused(bad, -1, "Insufficient permissions"), Subscribed(good)]
    assert list(session.wanted) == [good]
    assert session.requests() == []


def test_an_answer_of_another_shape_is_a_refusal():
    session, (handle,) = opened(Subscription(items=("m",), fields=("a", "b")))
    session.requests()
    (said,) = session.receive("SUBOK,1,1,3\r\n")
    assert (said.handle, said.code) == (handle, 22)
    assert [r["LS_op"] for r in session.requests()] == ["delete"]


def test_an_update_that_cannot_be_read_renews_its_subscription_a_few_times():
    session, (handle,) = opened(Subscription(items=("m",), fields=("a", "b")), renewals=2)
    session.requests()
    session.receive("SUBOK,1,1,2\r\nU,1,1,1|x\r\n")
    for number in (1, 2):
        (said,) = session.receive(f"U,{number},1,1|2|3\r\n")
        assert isinstance(said, Malformed)
        assert said.handle == handle
        assert session.receive(f"U,{number},1,5|6\r\n") == []  # of the old one
        assert [(r["LS_op"], r["LS_subId"]) for r in session.requests()] == [("delete", number), ("add", number + 1)]
        session.receive(f"SUBOK,{number + 1},1,2\r\n")
        assert session.receive(f"U,{number + 1},1,5|6\r\n") == [Update(handle, 0, ["5", "6"], True)]
    assert isinstance(session.receive("U,3,1,^P[]|2\r\n")[0], Malformed)
    assert session.requests() == []  # enough
    assert isinstance(session.receive("U,3,1,|2\r\n")[0], Malformed)  # nothing is guessed from what is unknown
    assert session.receive("U,3,1,7|2\r\n") == [Update(handle, 0, ["7", "2"], False)]


def test_unknown_tags_are_counted():
    session, _ = opened(Subscription(items=("m",), fields=("a",)))
    assert session.receive("HELLO,1\r\nHELLO\r\nPROBE\r\n") == []
    assert dict(session.unknown) == {"HELLO": 2}
    for number in range(1_000):
        session.receive(f"T{number}\r\n")
    assert len(session.unknown) <= 101
    assert session.unknown.total() == 1_002


@given(
    st.lists(
        st.builds(
            "{},{},{},{}".format,
            st.sampled_from(
                ["U", "SUBOK", "EOS", "CS", "OV", "UNSUB", "REQERR", "REQOK", "PROG", "LOOP", "CONOK", "END"]
            ),
            st.sampled_from(["1", "2", "9", "-1", "", "x", "1" * 30]),
            st.sampled_from(["1", "2", "0", "", "99999"]),
            st.text("|^#$%12aT", max_size=8),
        )
        | st.text(max_size=20),
        max_size=8,
    )
)
def test_no_text_breaks_a_session(lines):
    session, handles = opened(
        Subscription(items=("m", "n"), fields=FIELDS), Subscription(items=("d",), fields=("a",), mode="DISTINCT")
    )
    session.requests()
    for event in session.receive("\r\n".join(lines)):
        assert isinstance(event, Malformed) or event.handle in handles
        if isinstance(event, Update):
            assert len(event.values) == (3 if event.handle == handles[0] else 1)
    session.requests()
    session.interrupted()
    session.requests()
    session.unsubscribe(handles[0])
    session.forget()
    session.receive("CONOK,S2,50000,5000,*\r\n")
    assert {r["LS_op"] for r in session.requests()} <= {"add"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("versions", ()),
        ("versions", ("3.0.0",)),
        ("keepalive_s", 0.0),
        ("inactivity_s", -1.0),
        ("mute_factor", 1.0),
        ("open_timeout_s", 0.0),
        ("recovery_attempts", -1),
        ("renewals", -1),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(InvalidInput, match=field):
        LightstreamerConfig(**{field: value})


def test_names_have_no_spaces():
    with pytest.raises(InvalidInput, match="items"):
        Subscription(items=("a b",), fields=("x",))
    with pytest.raises(InvalidInput, match="fields"):
        Subscription(items=("a",), fields=())
