from lab import *


class Teacher:
    """Interpolated Kneser-Ney trigrams of the train ids, leave-one-out, as dense rows."""

    def __init__(s, data=D, V=8192, disc=0.75):
        t0 = time.process_time()
        s.V = V
        s.d = disc
        x = data.astype(np.int64)
        key = (x[:-2] * V + x[1:-1]) * V + x[2:]
        u, c = np.unique(key, return_counts=True)
        ab = u // V
        s.w3 = (u % V).astype(np.int64)
        s.c3 = c.astype(np.float32)
        s.u3 = u
        s.ctx, first, n = np.unique(ab, return_index=True, return_counts=True)
        s.s3 = np.append(first, len(u))
        s.n3 = n.astype(np.float32)
        s.C3 = np.add.reduceat(c, first).astype(np.float32)
        bw, k = np.unique(u % (V * V), return_counts=True)
        b = bw // V
        w = bw % V
        C2 = np.bincount(b, weights=k, minlength=V)
        n2 = np.bincount(b, minlength=V)
        p1 = np.bincount(w, minlength=V) + 0.1
        p1 = p1 / p1.sum()
        P2 = np.zeros((V, V), dtype=np.float32)
        P2[b, w] = (k - disc) / np.maximum(C2[b], 1)
        lam = np.where(C2 > 0, disc * n2 / np.maximum(C2, 1), 1.0)
        P2 += (lam[:, None] * p1[None, :]).astype(np.float32)
        s.P2 = torch.from_numpy(P2)
        s.C2 = C2.astype(np.float32)
        s.cost = time.process_time() - t0
        print("teacher", s.cost, len(u), len(s.ctx), flush=True)

    def rows(s, a, b, w, loo=True):
        N = len(b)
        i = np.searchsorted(s.ctx, a * s.V + b)
        i = np.minimum(i, len(s.ctx) - 1)
        hit = (s.ctx[i] == a * s.V + b) & (a >= 0)
        C = np.where(hit, s.C3[i], 0)
        n = np.where(hit, s.n3[i], 0)
        lens = np.where(hit, s.s3[i + 1] - s.s3[i], 0)
        r = np.repeat(np.arange(N), lens)
        off = np.arange(lens.sum()) - np.repeat(np.cumsum(lens) - lens, lens)
        idx = np.repeat(s.s3[i], lens) + off
        ws = s.w3[idx]
        cs = s.c3[idx].copy()
        if loo:
            own = ws == w[r]
            one = np.zeros(N)
            one[r[own]] = cs[own] == 1
            cs[own] -= 1
            C = np.where(hit, C - 1, 0)
            n = np.where(hit, n - one, 0)
        lam = np.where(C > 0, s.d * n / np.maximum(C, 1), 1.0).astype(np.float32)
        val = np.where(C[r] > 0, np.maximum(cs - s.d, 0) / np.maximum(C[r], 1), 0).astype(
            np.float32
        )
        T = s.P2[torch.from_numpy(b)]
        T *= torch.from_numpy(lam)[:, None]
        if loo:
            j = np.nonzero(one)[0]
            T[j, w[j]] = torch.clamp(
                T[j, w[j]]
                - torch.from_numpy((lam[j] / np.maximum(s.C2[b[j]], 1)).astype(np.float32)),
                min=1e-7,
            )
        T.index_put_(
            (torch.from_numpy(r), torch.from_numpy(ws)), torch.from_numpy(val), accumulate=True
        )
        return T


def distill_step(tr, teacher, alpha):
    batch = tr.batches.batch(tr.state.step)
    ids = batch.ids
    x = torch.from_numpy(ids)
    B, T1 = ids.shape
    b = ids[:, :-1]
    w = ids[:, 1:]
    a = np.concatenate([np.full((B, 1), -1), ids[:, :-2]], axis=1)
    tr.model.train()
    logits, _ = tr.forward(x[:, :-1], None)
    z = logits.flatten(0, 1)
    T = teacher.rows(a.ravel(), b.ravel(), w.ravel())
    lp = z.log_softmax(-1)
    hard = F.nll_loss(lp, x[:, 1:].flatten())
    soft = -(T * lp).sum(-1).mean()
    (alpha * soft + (1 - alpha) * hard).backward()
    from cordel.training.optimizers import clip

    clip(tr.model, tr.params)
    f = tr.factor(tr.state.step)
    for o in tr.optimizers:
        for g in o.param_groups:
            g["lr"] = g["peak"] * f
        o.step()
        o.zero_grad(set_to_none=True)
    tr.state.step += 1
    return float(soft.detach()), float(hard.detach())


if __name__ == "__main__":
    te = Teacher()
    # check: teacher's own val bits
    v = VAL.astype(np.int64)
    a, b, w = v[:-2], v[1:-1], v[2:]
    nats = 0
    for k in range(0, 20000, 2000):
        T = te.rows(a[k : k + 2000], b[k : k + 2000], w[k : k + 2000], loo=False)
        nats -= float(T[torch.arange(len(T)), torch.from_numpy(w[k : k + 2000])].log().sum())
    print(
        "KN val bits/byte approx",
        nats / 20000 * META.tokens / (math.log(2) * META.bytes),
        "sum",
        float(T.sum(-1).mean()),
        flush=True,
    )
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    import copy

    tr = make(steps)
    t = bigram_start(tr.model, steps=120)
    W = copy.deepcopy(tr.model.state_dict())
    for start, alpha, lr, mu in [
        (True, 0.9, 1e-3, 0.02),
        (False, 0.9, 5e-3, 0.02),
        (True, 0.6, 1e-3, 0.02),
    ]:
        tr = make(steps, learning_rate=lr, muon_learning_rate=mu)
        if start:
            tr.model.load_state_dict(W)
        cpu = te.cost + (t[1] if start else 0)
        out = []
        while tr.state.step < steps:
            c = time.process_time()
            sh = distill_step(tr, te, alpha)
            cpu += time.process_time() - c
            if tr.state.step in (25, 50, 100, 150, 200, 300, 400):
                out.append((tr.state.step, round(cpu, 1), round(bits(tr), 4)))
                print(start, alpha, lr, mu, out[-1], sh, flush=True)
