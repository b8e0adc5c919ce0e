import sys, time, math, json, os

sys.path[:0] = ["/tmp/q/seven/src", "/tmp/q/seven"]
import numpy as np, torch, torch.nn.functional as F
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.models import build_model, parse_architecture, count_parameters
from cordel.runtime.params import parse
from cordel.tokens import SplitMeta
from cordel.training.loop import Trainer
from cordel.training.params import TrainingParams

torch.set_num_threads(1)
D = np.load("/tmp/q/e7/train.npz")["ids"]
V_ = np.load("/tmp/q/e7/val.npz")
n = np.cumsum(V_["lens"])
k = int(np.searchsorted(n, 60000))
VAL = V_["ids"][: n[k]]
VB = int(V_["bytes"][: k + 1].sum())
META = SplitMeta(documents=k + 1, tokens=len(VAL), bytes=VB, unknown_bytes=0)
SHAPE = dict(
    d_model=192,
    n_layer=4,
    n_head=6,
    d_ff=512,
    tied=False,
    rope_theta=1e4,
    norm_epsilon=1e-5,
    init_sd=0.02,
)
TR = dict(
    seed=0,
    context_length=512,
    stride=512,
    targets="all",
    batch_size=4,
    epochs=1.0,
    schedule_epochs=1.0,
    patience=None,
    evaluations=4,
    optimizer="muon",
    unigram_bias=False,
    learning_rate=0.005,
    muon_learning_rate=0.02,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.01,
    decay_scope="matrices",
    schedule="wsd",
    warmup_steps=20,
    decay_share=0.4,
    grad_clip=1.0,
    clip_mode="global",
    label_smoothing=0.0,
    fallback_penalty=0.0,
)
C = decide(ComputeParams(device="cpu", threads=1, compile=False))


def make(steps, shape={}, arch="llama", vocab=8192, data=D, **tr):
    t = TR | tr
    per = (len(data) - 1 - t["context_length"] - (t["stride"] - 1)) // t["stride"] + 1
    spe = per // t["batch_size"]
    t["epochs"] = t["schedule_epochs"] = steps / spe
    seed_everything(t["seed"])
    m = build_model(
        arch,
        parse_architecture(arch, SHAPE | shape, "x"),
        vocab_size=vocab,
        context_length=t["context_length"],
    )
    return Trainer(
        m, parse(t, TrainingParams, "x"), train_ids=data, val_ids=VAL, val_meta=META, compute=C
    )


def bits(tr):
    nats = tr.val_nats_per_token()
    return nats * META.tokens / (math.log(2) * META.bytes)


def bigram_start(
    model, data=D, vocab=8192, steps=150, rows=1024, lr=0.02, rms=None, seed=0, verbose=False
):
    t0 = time.process_time()
    pair = data[:-1].astype(np.int64) * vocab + data[1:]
    u, c = np.unique(pair, return_counts=True)
    ctx = u // vocab
    nxt = u % vocab
    starts = np.searchsorted(ctx, np.arange(vocab + 1))
    n = np.add.reduceat(np.append(c, 0), starts[:-1]) * (starts[1:] > starts[:-1])
    uni = np.bincount(data, minlength=vocab) + 1.0
    uni /= uni.sum()
    t1 = time.process_time()
    E = model.model.embed_tokens.weight
    W = model.lm_head.weight
    norm = model.model.norm
    opt = torch.optim.AdamW([E, W], lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rng = np.random.default_rng(seed)
    p = n**0.75
    p = p / p.sum()
    unit = torch.from_numpy(uni).float()
    disc = 0.75
    for s in range(steps):
        cs = rng.choice(vocab, rows, p=p)
        T = torch.zeros(rows, vocab)
        wts = torch.from_numpy((n[cs] / n.sum() / p[cs] / rows)).float()
        r = np.concatenate([np.full(starts[x + 1] - starts[x], i) for i, x in enumerate(cs)])
        sl = np.concatenate([np.arange(starts[x], starts[x + 1]) for x in cs])
        lens = np.array([starts[x + 1] - starts[x] for x in cs])
        T[r, nxt[sl]] = torch.from_numpy(((c[sl] - disc) / n[cs][r])).float()
        T += torch.from_numpy(disc * lens / n[cs]).float()[:, None] * unit
        logits = F.linear(norm(E[torch.from_numpy(cs)]), W)
        loss = -(T * logits.log_softmax(-1)).sum(-1) @ wts
        for g in opt.param_groups:
            g["lr"] = lr * min(1, (s + 1) / 5) * min(1, (steps - s) / (0.5 * steps))
        loss.backward()
        opt.step()
        opt.zero_grad(set_to_none=True)
        model.zero_grad(set_to_none=True)
        if verbose and s % 25 == 0:
            print("   ", s, float(loss.detach()))
    if rms is not None:
        with torch.no_grad():
            E.mul_(rms / E.pow(2).mean().sqrt())
    return t1 - t0, time.process_time() - t0
