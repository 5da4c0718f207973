"""fastvid, holitom and flashvid against slow references in plain Python, and their budgets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cosine

import vtc
from vtc.interfaces.token_budget import FrameStatistics, VideoPatches

NAMES = ["fastvid", "flashvid", "holitom"]
seeds = st.integers(0, 10**6)


def video_of(frames, patches, seed, dim=5):
    """Some frames are almost equal to the one before, as in real video."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(frames, patches, dim, generator=generator, dtype=torch.float64)
    for n in range(1, frames):
        still = torch.rand(patches, generator=generator) < 0.6
        noise = 0.1 * torch.randn(patches, dim, generator=generator, dtype=torch.float64)
        video[n] = torch.where(still[:, None], video[n - 1] + noise, video[n])
    saliency = torch.rand(frames, patches, generator=generator, dtype=torch.float64)
    return video, saliency


def condensed(merger, video, saliency, tokens=None, survey=None):
    """The places and the values of the tokens of each frame of a segment."""
    flat = video.flatten(0, 1)
    return [
        (indices.tolist(), (weights @ flat).tolist())
        for indices, weights in merger.condense(video, saliency, None, tokens, survey)
    ]


def equal(found, expected):
    assert [places for places, _ in found] == [sorted(frame) for frame in expected]
    for (places, values), frame in zip(found, expected, strict=True):
        for place, value in zip(places, values, strict=True):
            assert value == pytest.approx(frame[place], abs=1e-9)


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def mix(a, b, weight):
    return [weight * x + (1 - weight) * y for x, y in zip(a, b, strict=True)]


def peaks(rows, count, neighbours):
    """Density peaks: the places of the chosen rows, and all distances."""
    scale = math.sqrt(len(rows[0]))
    distance = [[math.dist(a, b) / scale for b in rows] for a in rows]
    near = min(neighbours, len(rows))
    density = [math.exp(-sum(d * d for d in sorted(row)[:near]) / near) for row in distance]
    far = max(map(max, distance))
    gap = [
        min([distance[i][j] for j in range(len(rows)) if density[j] > density[i]], default=far)
        for i in range(len(rows))
    ]
    score = [a * b for a, b in zip(gap, density, strict=True)]
    return sorted(sorted(range(len(rows)), key=lambda i: -score[i])[:count]), distance


def best(numbers, score, count):
    return sorted(numbers, key=lambda m: -score[m])[:count]


def slow_fastvid(video, saliency, share, d=0.4, p=4, beta=0.6):
    rows, frames, patches = video.tolist(), len(video), video.shape[1]
    kept = max(1, math.floor(share * patches + 1e-9))
    salient = kept - math.floor(d * kept + 1e-9)
    anchors = [n for n in range(frames) if (frames - 1 - n) % p == 0]
    extra = min((kept - salient) * frames // len(anchors), patches - salient)
    own = [best(range(patches), saliency[n].tolist(), salient) for n in range(frames)]
    rest = [[m for m in range(patches) if m not in own[n]] for n in range(frames)]
    result = []
    for n in range(frames):
        tokens = {m: rows[n][m] for m in own[n]}
        if n in anchors and extra:
            at, _ = peaks([rows[n][m] for m in rest[n]], extra, 4)
            centres = [rest[n][i] for i in at]
            added = {m: [] for m in centres}
            for t in range(frames):
                for m in rest[t]:
                    likeness = [cosine(rows[t][m], rows[n][c]) for c in centres]
                    added[centres[likeness.index(max(likeness))]].append(rows[t][m])
            for m in centres:
                weight = max(1 / (len(added[m]) + 1), beta)
                tokens[m] = mix(rows[n][m], mean(added[m]), weight) if added[m] else rows[n][m]
        result.append(tokens)
    return result


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.1, 0.4, 0.7]), seeds)
def test_fastvid_equals_a_slow_reference(frames, patches, share, seed):
    video, saliency = video_of(frames, patches, seed)
    merger = vtc.merger("fastvid", share=share)
    equal(condensed(merger, video, saliency), slow_fastvid(video, saliency, share))


def slow_windows(still):
    """All ways to cut the video into windows: the most tokens left out, and the windows."""
    frames = len(still) + 1

    def gain(start, end):
        lasting = zip(*still[start:end], strict=True)
        return sum(map(all, lasting)) * (end - start) if end > start else 0

    def cuts(start):
        if start == frames:
            yield 0, []
            return
        for end in range(start, frames):
            for rest, windows in cuts(end + 1):
                yield rest + gain(start, end), [(start, end), *windows]

    return cuts(0), gain


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 4), seeds)
def test_holitom_chooses_the_windows_that_leave_out_most(frames, patches, chunk, seed):
    video, _ = video_of(frames, patches, seed)
    survey = vtc.merger("holitom").survey(VideoPatches(lambda: iter(torch.split(video, chunk))))
    still = [
        [cosine(a, b) > 0.8 for a, b in zip(video[n].tolist(), video[n + 1].tolist(), strict=True)]
        for n in range(frames - 1)
    ]
    ways, gain = slow_windows(still)
    most = max(value for value, _ in ways)
    assert survey.left == pytest.approx(1 - most / (frames * patches))
    numbers = survey.numbers.tolist()
    windows = [(numbers.index(w), len(numbers) - 1 - numbers[::-1].index(w)) for w in set(numbers)]
    assert sum(gain(*window) for window in windows) == most
    lengths = [end - start for start, end in sorted(windows)]
    gains = [gain(*window) for window in sorted(windows)]
    assert survey.still.tolist() == [
        value // length if length else 0 for value, length in zip(gains, lengths, strict=True)
    ]


def slow_holitom(video, saliency, share, left, beta=0.6):
    rows, frames, patches = video.tolist(), len(video), video.shape[1]
    share = min(1.0, share / left)
    still = [
        m
        for m in range(patches)
        if frames > 1 and all(cosine(rows[n][m], rows[n + 1][m]) > 0.8 for n in range(frames - 1))
    ]
    moving = [m for m in range(patches) if m not in still]
    count, own = round(len(still) * share), math.ceil(len(moving) * share - 1e-9)
    if not count and not own:
        count, own = (1, 0) if still else (0, 1)
    result = []
    for n in range(frames):
        result.append({m: rows[n][m] for m in best(moving, saliency[n].tolist(), own)})
    if count:
        means = [mean([rows[n][m] for n in range(frames)]) for m in still]
        at, distance = peaks(means, count, min(7, count))
        added = {i: [] for i in at}
        for i in range(len(means)):
            if i not in at:
                near = [distance[i][j] for j in at]
                added[at[near.index(min(near))]].append(means[i])
        for i in at:
            value = mix(means[i], mean(added[i]), beta) if added[i] else means[i]
            result[0][still[i]] = value
    return result


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.1, 0.4, 0.7]),
    st.sampled_from([1.0, 0.6]), seeds,
)  # fmt: skip
def test_holitom_equals_a_slow_reference(frames, patches, share, left, seed):
    video, saliency = video_of(frames, patches, seed)
    merger = vtc.merger("holitom", share=share)
    survey = merger.survey(VideoPatches(lambda: iter([video])))._replace(left=left)
    found = condensed(merger, video, saliency, survey=survey)
    equal(found, slow_holitom(video, saliency, share, left))


def slow_flashvid(video, saliency, share, alpha=0.7, threshold=0.8, tokens=None):
    rows, frames, patches = video.tolist(), len(video), video.shape[1]
    equal = min(patches, max(1, math.ceil(share * patches - 1e-9)))
    totals = [equal] * frames if tokens is None else tokens
    centre = mean([mean(frame) for frame in rows])
    keeps = []
    for n, frame in enumerate(rows):
        weight = [
            sum(x * y for x, y in zip(row, centre, strict=True)) * float(saliency[n][m])
            for m, row in enumerate(frame)
        ]
        count, keep = math.ceil(alpha * totals[n] - 1e-9), []
        distance = [[1 - cosine(a, b) for b in frame] for a in frame]
        if count >= patches:
            keep = list(range(patches))
        while len(keep) < count:
            score = {
                m: weight[m] * min(distance[m][k] for k in (keep or set(range(patches)) - {m}))
                for m in range(patches)
                if m not in keep
            }
            keep.append(max(score, key=lambda m: (score[m], -m)))
        keeps.append(keep)
    free = [[m for m in range(patches) if m not in keeps[n]] for n in range(frames)]
    joins = []
    for n in range(1, frames):
        for m in free[n]:
            likeness = [(cosine(rows[n][m], rows[n - 1][k]), -k) for k in free[n - 1]]
            if likeness and max(likeness)[0] > threshold:
                joins.append((max(likeness)[0], -n, -m, -max(likeness)[1]))
    joins.sort(reverse=True)
    if tokens is None:
        joins = joins[: frames * patches - sum(totals)]
    else:
        joins = [
            join
            for join in joins
            if [one for one in joins if one[1] == join[1]].index(join) < patches - totals[-join[1]]
        ]
    parents = {(-n, -m): (-n - 1, k) for _, n, m, k in joins}
    trees = {(n, m): [rows[n][m]] for n in range(frames) for m in free[n] if (n, m) not in parents}
    for token in parents:
        root = token
        while root in parents:
            root = parents[root]
        trees[root].append(rows[token[0]][token[1]])
    of_frame = [sorted(m for t, m in trees if t == n) for n in range(frames)]
    wanted = [total - len(keep) for total, keep in zip(totals, keeps, strict=True)]
    if tokens is None:
        total, number = sum(wanted), sum(map(len, of_frame))
        wanted = [len(own) for own in of_frame]
        if total < number:
            quota = [len(own) * total / number for own in of_frame]
            wanted = [math.floor(share + 1e-9) for share in quota]
            order = sorted(range(frames), key=lambda n: -(quota[n] - wanted[n]))
            for n in order[: total - sum(wanted)]:
                wanted[n] += 1
    result = []
    for n in range(frames):
        tokens_of = {m: rows[n][m] for m in keeps[n]}
        if wanted[n]:
            means = [mean(trees[n, m]) for m in of_frame[n]]
            at, distance = peaks(means, wanted[n], min(7, wanted[n]))
            groups = {i: [means[i]] for i in at}
            for i in range(len(means)):
                if i not in at:
                    near = [distance[i][j] for j in at]
                    groups[at[near.index(min(near))]].append(means[i])
            tokens_of |= {of_frame[n][i]: mean(group) for i, group in groups.items()}
        result.append(tokens_of)
    return result


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.1, 0.4, 0.7]), seeds)
def test_flashvid_equals_a_slow_reference(frames, patches, share, seed):
    video, saliency = video_of(frames, patches, seed)
    merger = vtc.merger("flashvid", share=share)
    equal(condensed(merger, video, saliency), slow_flashvid(video, saliency, share))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), seeds)
def test_flashvid_with_a_budget_equals_a_slow_reference(tokens, seed):
    video, saliency = video_of(len(tokens), 7, seed)
    found = condensed(vtc.merger("flashvid"), video, saliency, tokens)
    equal(found, slow_flashvid(video, saliency, 0, tokens=tokens))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(NAMES), st.lists(st.integers(1, 6), min_size=1, max_size=9), seeds)
def test_a_budget_sets_the_tokens_of_each_frame(name, tokens, seed):
    video, saliency = video_of(len(tokens), 6, seed)
    found = condensed(vtc.merger(name), video, saliency, tokens)
    assert [len(places) for places, _ in found] == tokens
    for weights in vtc.merger(name).condense(video, saliency, None, tokens):
        torch.testing.assert_close(weights[1].sum(1), torch.ones_like(weights[1][:, 0]))


@pytest.mark.parametrize(("threshold", "fewest"), [(0.9, 8), (0.9, 1), (-1.0, 4), (2.0, 1)])
def test_a_video_is_cut_where_its_frames_are_least_alike(threshold, fewest):
    video, _ = video_of(12, 3, 1)
    merger = vtc.merger("fastvid", threshold=threshold, segments=fewest, longest=5)
    means = [frame.mean(0).tolist() for frame in video]
    likeness = [cosine(a, b) for a, b in zip(means, means[1:], strict=False)]
    below = [n for n, value in enumerate(likeness) if value < threshold]
    lowest = sorted(range(11), key=lambda n: likeness[n])[: fewest - 1]
    cuts = sorted({*below, *lowest})
    lengths = [b - a for a, b in zip([-1, *cuts], [*cuts, 11], strict=True)]
    expected = []
    for length in lengths:
        parts = math.ceil(length / 5)
        expected += [length // parts + (part < length % parts) for part in range(parts)]
    for chunk in (1, 5, 12):
        patches = VideoPatches(lambda chunk=chunk: iter(torch.split(video, chunk)))
        segments = merger.segments(merger.survey(patches))
        assert torch.unique_consecutive(segments, return_counts=True)[1].tolist() == expected


def statistics(video, keyframes=()):
    patches = VideoPatches(lambda: iter(torch.split(video, 4)))
    kept = torch.tensor(keyframes, dtype=torch.int64)
    return FrameStatistics(kept, video.shape[1], len(video), patches=patches)


def test_the_budget_fastvid_moves_tokens_to_the_anchor_frames():
    video = torch.ones(8, 50, 4)  # one segment
    tokens = vtc.budget("fastvid", segments=1).allocate(statistics(video), 80)
    assert tokens.tolist() == [6, 6, 6, 22, 6, 6, 6, 22]  # 10 each, of which 4 are merged


def test_the_budget_holitom_gives_still_tokens_to_the_first_frame():
    video = torch.ones(4, 10, 3)
    video[1:, :4] *= torch.tensor([[-1.0], [1.0], [-1.0]])[:, None]  # 4 of 10 places move
    tokens = vtc.budget("holitom").allocate(statistics(video), 11)
    assert tokens.tolist() == [5, 2, 2, 2]  # half of 10, and of 4


class TestFastVID(vtc.testing.BudgetContract):
    part = vtc.budget("fastvid", max_tokens=100)


class TestHoliTom(vtc.testing.BudgetContract):
    part = vtc.budget("holitom", max_tokens=100)
